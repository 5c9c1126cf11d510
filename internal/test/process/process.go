// Package process builds the program, and starts and ends the processes that tests
// run: the program, nginx, clients and examples.
package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Patience is how long a process may take to start or to end. Other work may keep the
// machine busy.
const Patience = time.Minute

// Process is a process that was started. Its methods are safe for concurrent use.
type Process struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

// Start starts a command. The process is in a group of its own, so that Ctrl-C reaches
// only the test, and ends with the test process where the system supports that.
func Start(cmd *exec.Cmd) (*Process, error) {
	cmd.SysProcAttr = childAttr()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// Ended is closed when the process has ended and its output has been read.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Running reports whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Status waits for the end of the process and returns its exit status; -1 if a signal
// ended it.
func (p *Process) Status() int {
	<-p.ended
	return p.cmd.ProcessState.ExitCode()
}

// Signal sends a signal.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Stop asks the process to end and waits for it.
func (p *Process) Stop() error { return p.StopBy(syscall.SIGTERM) }

// StopBy is Stop with another signal.
func (p *Process) StopBy(s syscall.Signal) error {
	p.Signal(s)
	p.Signal(syscall.SIGCONT) // it may be paused
	select {
	case <-p.ended:
		return nil
	case <-time.After(Patience):
		p.Kill()
		return fmt.Errorf("%s: still running %s after the signal %s", filepath.Base(p.cmd.Path), Patience, s)
	}
}

// Kill ends the process without a chance to tidy up.
func (p *Process) Kill() {
	p.cmd.Process.Kill()
	<-p.ended
}

var errEnded = errors.New("ended at once")

// Answers waits until a GET request is answered with 200.
func (p *Process) Answers(ctx context.Context, url string) error {
	return p.await(ctx, url+" does not answer", func(ctx context.Context) bool {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return false
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// Listens waits until connections to the address are accepted.
func (p *Process) Listens(ctx context.Context, address string) error {
	return p.await(ctx, "no process listens on "+address, func(ctx context.Context) bool {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		return err == nil && c.Close() == nil
	})
}

func (p *Process) await(ctx context.Context, otherwise string, ok func(context.Context) bool) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	for !ok(ctx) {
		select {
		case <-ctx.Done():
			return errors.New(otherwise)
		case <-p.ended:
			return errEnded
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}
