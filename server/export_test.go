package server

import "time"

// AskAgain sets how long after a start the issuer is asked again.
func (o *Options) AskAgain(d time.Duration) { o.askAgain = d }
