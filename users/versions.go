package users

// OnChange makes do known, after each change of the file that comes into use, the subjects
// of users that were enabled before, and are removed, disabled or have another version now.
// No change is left out, however short it was in use. do must not use f.
func (f *File) OnChange(do func(subjects []string)) {
	f.live.OnChange(func(before, now *table) { do(before.changed(now)) })
}

// versionOf returns the version of a user, or "" if there is no such user or it is disabled.
func versionOf(r *record) string {
	if r == nil || r.Disabled {
		return ""
	}
	return r.Version
}

// changed returns the subjects of users that were enabled in t, and in next are removed,
// disabled, or have another version.
func (t *table) changed(next *table) (subjects []string) {
	for _, l := range t.lines {
		if before := versionOf(l.user); before != "" && versionOf(next.find(l.user.Name)) != before {
			subjects = append(subjects, l.user.Name)
		}
	}
	return subjects
}
