package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"signet/internal/test/freeport"
)

// Server is a throwaway PostgreSQL that may be stopped and started. It ends with Close,
// or with this process: a shell waits for the end of its input, and cleans up.
type Server struct {
	URL string // URL of a superuser and the database postgres
	Dir string // directory of all its files

	orders io.WriteCloser
	ended  chan struct{}
	log    *os.File // file without a name
}

// NewServer makes a cluster in a directory of its own and starts it.
func NewServer() (*Server, error) {
	bin, err := Bin()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "signet-postgres-")
	if err != nil {
		return nil, err
	}
	attr := &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() == 0 { // PostgreSQL does not run as root
		if attr.Credential, err = owner(dir); err != nil {
			return nil, err
		}
	}
	port, err := freeport.New()
	if err != nil {
		return nil, err
	}
	password := rand.Text()
	s := &Server{
		Dir:   dir,
		URL:   fmt.Sprintf("postgres://postgres:%s@127.0.0.1:%d/postgres?sslmode=disable", password, port),
		ended: make(chan struct{}),
	}
	if s.log, err = os.CreateTemp("", "signet-postgres-*.log"); err != nil {
		return nil, err
	}
	os.Remove(s.log.Name())
	cmd := exec.Command("/bin/sh", "-c", script, bin, dir, strconv.Itoa(port), password)
	cmd.Dir, cmd.SysProcAttr, cmd.Stdout, cmd.Stderr = dir, attr, s.log, s.log
	if s.orders, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		cmd.Wait()
		close(s.ended)
	}()
	if err := s.Start(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// script is called with the programs' folder as $0, then folder, port and password.
// It obeys the lines start, stop, save and restore.
const script = `
printf '%s\n' "$3" >"$1/password"
"$0/initdb" -D "$1/data" -U postgres -E UTF8 --locale=C.UTF-8 --auth-local=trust --auth-host=password --pwfile="$1/password" >/dev/null || exit
pid=
stop() { [ -z "$pid" ] || kill -QUIT "$pid"; wait; pid=; }
while read order; do
	stop
	if [ "$order" = save ]; then
		rm -rf "$1/saved"; cp -a "$1/data" "$1/saved"
		order=start
	fi
	if [ "$order" = restore ]; then
		rm -rf "$1/data"; cp -a "$1/saved" "$1/data"
		order=start
	fi
	if [ "$order" = start ]; then
		"$0/postgres" -D "$1/data" -c listen_addresses=127.0.0.1 -c port="$2" -c unix_socket_directories="$1" -c max_connections=200 -c shared_buffers=64MB </dev/null &
		pid=$!
	fi
done
stop
rm -rf "$1/data" "$1/saved" "$1/password"
rmdir "$1" 2>/dev/null
`

// Start starts a stopped server and waits until it answers. Commits are still there.
func (s *Server) Start() error {
	return s.order("start", "the cluster does not start", func(err error) bool { return err == nil })
}

// Save restarts the server, and keeps a copy of all its data.
func (s *Server) Save() error { return s.again("save") }

// PutBack restarts the server on the copy that Save made: what was committed since then is
// gone, as with a standby that lags behind and is promoted.
func (s *Server) PutBack() error { return s.again("restore") }

func (s *Server) again(order string) error {
	if err := s.Stop(); err != nil {
		return err
	}
	return s.order(order, "the cluster does not start", func(err error) bool { return err == nil })
}

// Stop ends the server like a crash, with all connections, and waits until the port is
// closed.
func (s *Server) Stop() error {
	return s.order("stop", "the cluster does not stop", func(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) })
}

// order writes a line to the script and waits until an attempt to connect ends as it
// should.
func (s *Server) order(order, otherwise string, done func(error) bool) error {
	if _, err := io.WriteString(s.orders, order+"\n"); err != nil {
		return fmt.Errorf("%s: %w: %s", otherwise, err, s.said())
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if done(s.ping()) {
			return nil
		}
	}
	return fmt.Errorf("%s: %s", otherwise, s.said())
}

func (s *Server) ping() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, s.URL)
	if err != nil {
		return err
	}
	return c.Close(ctx)
}

func (s *Server) said() []byte {
	text, _ := io.ReadAll(io.NewSectionReader(s.log, 0, 1<<20))
	return text
}

// Close ends the server and removes its files. Closing twice is fine.
func (s *Server) Close() error {
	s.orders.Close()
	select {
	case <-s.ended:
		s.log.Close()
		return nil
	case <-time.After(time.Minute):
		return errors.New("the cluster does not end")
	}
}
