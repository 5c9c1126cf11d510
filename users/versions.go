package users

// Versions are the versions of the users at one moment.
type Versions struct{ all *table }

// Versions returns the present versions. Like other methods, it reads the file again if
// it has changed.
func (f *File) Versions() Versions { return Versions{f.live.Get()} }

// of returns the version of a user, or "" if there is no such user or it is disabled.
func (v Versions) of(r *record) string {
	if r == nil || r.Disabled {
		return ""
	}
	return r.Version
}

// Changed returns the subjects of users that were enabled in v, and in next are removed,
// disabled, or have another version.
func (v Versions) Changed(next Versions) (subjects []string) {
	if v.all == next.all {
		return nil
	}
	for _, l := range v.all.lines {
		if before := v.of(l.user); before != "" && next.of(next.all.find(l.user.Name)) != before {
			subjects = append(subjects, l.user.Name)
		}
	}
	return subjects
}
