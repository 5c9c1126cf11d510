package cli

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// onHangup calls reload at every SIGHUP until stop is called. Without it the signal,
// which also says that a terminal was closed, ends the process.
func onHangup(reload func()) (stop func()) {
	signals, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, syscall.SIGHUP)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			select {
			case <-signals:
				reload()
			case <-done:
				return
			}
		}
	})
	return func() {
		signal.Stop(signals)
		close(done)
		running.Wait()
	}
}
