package backend

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	maxQueued     = 64      // lines that the process has not read yet
	maxStderrLine = 4 << 10 // what is longer is cut
	drain         = time.Second
)

// process is one life of a server's process, and the messages that are under way with it.
type process struct {
	conn   *stdioConn
	cmd    *exec.Cmd
	in     io.WriteCloser
	lines  chan []byte      // to the process
	exited chan struct{}    // closed when the process has ended
	ended  chan struct{}    // closed when everything that it wrote has been read, too
	state  *os.ProcessState // set when exited is closed

	secrets *strings.Replacer // that takes out what the process was given

	version string // of the protocol; neither is written after the start
	offers  capabilities

	noise sync.Once // to log once that the output is no JSON-RPC

	mu        sync.Mutex
	gone      bool // no call may begin
	last      uint64
	calls     map[uint64]*call   // by id
	listeners map[string][]*call // by URI; only in versions with resources/subscribe
}

// spawn starts the process in a process group of its own.
func (c *stdioConn) spawn() (*process, error) {
	command := c.instance.Command
	p := &process{conn: c, cmd: exec.Command(command[0], command[1:]...), lines: make(chan []byte, maxQueued), exited: make(chan struct{}), ended: make(chan struct{}),
		calls: map[uint64]*call{}, listeners: map[string][]*call{}}
	env, secrets := c.environment(os.LookupEnv)
	p.secrets = secrets
	p.cmd.Env, p.cmd.Dir, p.cmd.SysProcAttr = env, c.instance.Dir, processAttributes()
	in, err1 := p.cmd.StdinPipe()
	out, err2 := p.cmd.StdoutPipe()
	log, err3 := p.cmd.StderrPipe()
	err := errors.Join(err1, err2, err3)
	if dir := c.instance.Dir; err == nil && dir != "" {
		_, err = os.Stat(dir)
	}
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		for _, pipe := range []io.Closer{in, out, log} {
			if pipe != nil {
				pipe.Close()
			}
		}
		return nil, c.unsent("its process cannot be started: %v", err)
	}
	p.in = in
	var readers sync.WaitGroup
	readers.Go(func() { readLines(out, c.max, p.line) })
	readers.Go(func() { readLines(log, 2*maxStderrLine, func(line, _ []byte, _ bool) { p.log("stderr", line) }) })
	readers.Go(p.write)
	go p.wait(&readers, out, log)
	return p, nil
}

// wait waits for the end of the process, ends what it left over, and lets the calls fail that it
// has not answered.
func (p *process) wait(readers *sync.WaitGroup, pipes ...io.Closer) {
	p.state, _ = p.cmd.Process.Wait()
	p.signal(syscall.SIGKILL) // what it started ends with it
	close(p.exited)
	p.in.Close()
	shut := func() {
		for _, pipe := range pipes {
			pipe.Close()
		}
	}
	timer := time.AfterFunc(drain, shut) // a process that left the group may hold them open
	readers.Wait()
	timer.Stop()
	shut()
	p.failAll()
	close(p.ended)
}

// signal signals the process and what it started.
func (p *process) signal(s syscall.Signal) { syscall.Kill(-p.cmd.Process.Pid, s) }

// stop ends the process, first by closing its input as the protocol has it, and returns when
// nothing of it is left.
func (p *process) stop() {
	p.in.Close()
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		timer := time.NewTimer(p.conn.pace.grace)
		select {
		case <-p.ended:
			timer.Stop()
			return
		case <-timer.C:
			p.signal(s)
		}
	}
	<-p.ended
}

func (p *process) hasEnded() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// status is how the process has ended, for people.
func (p *process) status() string { return p.state.String() }

// write passes lines on until the process has ended. A process that does not read is of no more
// use, because every message has to wait behind the one that it leaves lying.
func (p *process) write() {
	for {
		select {
		case <-p.exited:
			return
		case line := <-p.lines:
			guard := time.AfterFunc(p.conn.timeout, func() {
				p.conn.log.Warn("the server does not read what it is sent, its process is ended")
				p.signal(syscall.SIGKILL)
			})
			_, err := p.in.Write(line)
			guard.Stop()
			if err != nil {
				<-p.exited // the reason, or soon the consequence
				return
			}
		}
	}
}

// send queues a line.
func (p *process) send(ctx context.Context, line []byte) error {
	select {
	case p.lines <- line:
		return nil
	case <-p.exited:
		return p.conn.unsent("its process has ended")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// offer queues a line that is not worth waiting for, if a process does not read.
func (p *process) offer(line []byte) {
	select {
	case p.lines <- line:
	default:
	}
}

// log logs what the process writes, without the secrets that it was given.
func (p *process) log(what string, line []byte) {
	if len(line) > 0 && p.conn.log.Enabled(context.Background(), slog.LevelDebug) {
		text := p.secrets.Replace(string(line[:min(len(line), 2*maxStderrLine)]))
		p.conn.log.Debug(what, "line", text[:min(len(text), maxStderrLine)])
	}
}

// readLines calls each with every line of r, until its end. Of a line that is longer than most,
// each gets the beginning and the last tailSize bytes, and that it is not whole.
func readLines(r io.Reader, most int, each func(line, tail []byte, whole bool)) {
	in := bufio.NewReaderSize(r, 64<<10)
	for {
		var line, tail []byte
		whole := true
		part, err := in.ReadSlice('\n')
		for ; ; part, err = in.ReadSlice('\n') {
			if room := most - len(line); len(part) > room+1 {
				whole = false
				line = append(line, part[:room]...)
			} else {
				line = append(line, part...)
			}
			if !whole {
				tail = append(tail, part...)
				tail = tail[max(0, len(tail)-tailSize):]
			}
			if !errors.Is(err, bufio.ErrBufferFull) {
				break
			}
		}
		if line = bytes.TrimRight(line, "\r\n"); len(line) > 0 {
			each(line, tail, whole)
		}
		if err != nil {
			return
		}
	}
}

// changes tells of lists that have changed, each once for any number of times while the one before
// is told of.
type changes struct {
	tell func(list string)

	work  sync.WaitGroup
	mu    sync.Mutex
	lists []string
	busy  bool
}

func (c *changes) add(list string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Contains(c.lists, list) {
		c.lists = append(c.lists, list)
	}
	if !c.busy {
		c.busy = true
		c.work.Go(func() {
			for list, ok := c.take(); ok; list, ok = c.take() {
				c.tell(list)
			}
		})
	}
}

func (c *changes) take() (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.lists) == 0 {
		c.busy = false
		return "", false
	}
	list := c.lists[0]
	c.lists = c.lists[1:]
	return list, true
}
