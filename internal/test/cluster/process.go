package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// patience is how long a process may take to begin or to end. Other work may keep
// the machine busy.
const patience = time.Minute

// process is one that was started and can be ended.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

// startProcess starts a command that writes to a log. It is in no group of ours, so
// that a Ctrl-C reaches us alone and things end in order, and it ends with us where
// the system can see to that.
func startProcess(cmd *exec.Cmd, log string) (*process, error) {
	w, err := appendTo(log)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = w, w, childAttr()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// stop asks the process to end and waits for it.
func (p *process) stop() error {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
		return nil
	case <-time.After(patience):
		p.cmd.Process.Kill()
		<-p.ended
		return fmt.Errorf("%s: still running %s after SIGTERM", filepath.Base(p.cmd.Path), patience)
	}
}

func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.ended
}

// Replica is one process of ours, or the place of one. Its methods may be called at
// the same time.
type Replica struct {
	Name string // such as auth-1
	Role string
	URL  string // its own, past nginx
	Log  string // path of what it wrote, through all its lives

	program   string
	args, env []string

	mu sync.Mutex
	p  *process
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
	if err := p.answers(ctx, r.URL+"/livez"); err != nil {
		return fmt.Errorf("%s: %w\n%s", r.Name, err, Tail(r.Log, 20))
	}
	return nil
}

// answers waits until a probe is answered with 200.
func (p *process) answers(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(r)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer", url)
		case <-p.ended:
			return errors.New("ended at once")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// listens waits until somebody takes connections.
func (p *process) listens(ctx context.Context, address string) error {
	for {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("nobody listens on %s", address)
		case <-p.ended:
			return errors.New("ended at once")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Ready waits until the replica is ready: it has keys, and its database answers.
func (r *Replica) Ready(ctx context.Context) error {
	r.mu.Lock()
	p := r.p
	r.mu.Unlock()
	if p == nil {
		return fmt.Errorf("%s is not running", r.Name)
	}
	if err := p.answers(ctx, r.URL+"/readyz?require=store"); err != nil {
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
	p.cmd.Process.Signal(syscall.SIGCONT) // it may be paused
	if err := p.stop(); err != nil {
		return err
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
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
	r.p.kill()
	r.p = nil
	return nil
}

// Pause stops the replica in the middle of whatever it does, until Resume.
func (r *Replica) Pause() error { return r.signal(syscall.SIGSTOP) }

// Resume lets a paused replica go on.
func (r *Replica) Resume() error { return r.signal(syscall.SIGCONT) }

func (r *Replica) signal(s syscall.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.p == nil {
		return fmt.Errorf("%s is not running", r.Name)
	}
	return r.p.cmd.Process.Signal(s)
}

// Running reports whether the replica was started and has not ended.
func (r *Replica) Running() bool { return r.PID() != 0 }

// PID is the process's number, 0 if none runs.
func (r *Replica) PID() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.p == nil {
		return 0
	}
	select {
	case <-r.p.ended:
		r.p = nil
		return 0
	default:
		return r.p.cmd.Process.Pid
	}
}
