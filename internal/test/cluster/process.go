package cluster

import (
	"context"
	"fmt"
	"os/exec"
	"sync"
	"syscall"

	"signet/internal/test/process"
)

// startProcess starts a command that appends to a log.
func startProcess(cmd *exec.Cmd, log string) (*process.Process, error) {
	w, err := appendTo(log)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	cmd.Stdout, cmd.Stderr = w, w
	return process.Start(cmd)
}

// Replica is a process of the program, running or stopped. Its methods are safe for
// concurrent use.
type Replica struct {
	Name string // such as auth-1
	Role string
	URL  string // its own address, past nginx
	Log  string // path of its log, of all starts

	program   string
	args, env []string

	mu sync.Mutex
	p  *process.Process
}

// Start starts a replica that is not running, and waits until it answers.
func (r *Replica) Start(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.p != nil {
		return fmt.Errorf("%s is running", r.Name)
	}
	cmd := exec.Command(r.program, r.args...)
	cmd.Env = r.env
	p, err := startProcess(cmd, r.Log)
	if err != nil {
		return err
	}
	r.p = p
	if err := p.Answers(ctx, r.URL+"/livez"); err != nil {
		return fmt.Errorf("%s: %w\n%s", r.Name, err, Tail(r.Log, 20))
	}
	return nil
}

// Ready waits until the replica is ready: it has keys, and its database answers.
func (r *Replica) Ready(ctx context.Context) error {
	r.mu.Lock()
	p := r.p
	r.mu.Unlock()
	if p == nil {
		return fmt.Errorf("%s is not running", r.Name)
	}
	if err := p.Answers(ctx, r.URL+"/readyz?require=store"); err != nil {
		return fmt.Errorf("%s: %w\n%s", r.Name, err, Tail(r.Log, 20))
	}
	return nil
}

// Stop asks the replica to stop, as an orchestrator does, and waits until it has.
func (r *Replica) Stop() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.p == nil {
		return fmt.Errorf("%s is not running", r.Name)
	}
	p := r.p
	r.p = nil
	if err := p.Stop(); err != nil {
		return err
	}
	if code := p.Status(); code != 0 {
		return fmt.Errorf("%s: exit status %d\n%s", r.Name, code, Tail(r.Log, 10))
	}
	return nil
}

// Restart stops the replica, starts it again and waits until it is ready: a step of a
// rolling restart.
func (r *Replica) Restart(ctx context.Context) error {
	if err := r.Stop(); err != nil {
		return err
	}
	if err := r.Start(ctx); err != nil {
		return err
	}
	return r.Ready(ctx)
}

// Kill ends the replica without a chance to tidy up (SIGKILL).
func (r *Replica) Kill() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.p == nil {
		return fmt.Errorf("%s is not running", r.Name)
	}
	r.p.Kill()
	r.p = nil
	return nil
}

// Pause pauses the replica until Resume.
func (r *Replica) Pause() error { return r.signal(syscall.SIGSTOP) }

// Resume lets a paused replica go on.
func (r *Replica) Resume() error { return r.signal(syscall.SIGCONT) }

func (r *Replica) signal(s syscall.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.p == nil {
		return fmt.Errorf("%s is not running", r.Name)
	}
	return r.p.Signal(s)
}

// Running reports whether the replica was started and has not ended.
func (r *Replica) Running() bool { return r.PID() != 0 }

// PID is the process's number, 0 if none runs.
func (r *Replica) PID() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.p != nil && !r.p.Running() {
		r.p = nil
	}
	if r.p == nil {
		return 0
	}
	return r.p.PID()
}
