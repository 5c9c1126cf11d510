package throttle

// KeepAtMost sets how many counts are kept.
func (t *Logins) KeepAtMost(n int64) { t.most = n }
