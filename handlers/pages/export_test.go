package pages

// Parse parses every page in every language.
func (s *Set) Parse() error {
	for _, l := range s.languages {
		for _, name := range names {
			if _, err := l.byName[name](); err != nil {
				return err
			}
		}
	}
	return nil
}
