package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"signet/users"
)

// readSecret reads a secret from stdin: one line of at most so many bytes, without its
// end. Nothing else of the secret is cut. rest is the input after that line. A secret is
// never an argument, because other processes on the machine can see those.
func (p Process) readSecret(what string, most int64) (secret string, rest io.ByteReader, err error) {
	in := bufio.NewReader(io.LimitReader(p.Stdin, most))
	line, err := in.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", nil, fmt.Errorf("reading the %s: %w", what, err)
	}
	secret = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
	if secret == "" {
		return "", nil, wrongUse{fmt.Errorf("no %s on stdin", what)}
	}
	return secret, in, nil
}

// password reads a password from stdin, or asks for it.
func (p Process) password(ctx context.Context, fromStdin bool) (string, error) {
	if !fromStdin {
		return p.askPassword(ctx, "Password: ")
	}
	password, _, err := p.readSecret("password", users.MaxPassword+3)
	return password, err
}

// newPassword reads a password for u from stdin, or asks for it twice. It refuses a
// password that is easy to guess.
func (p Process) newPassword(ctx context.Context, fromStdin bool, cfg *config, u users.User) (string, error) {
	password, err := p.password(ctx, fromStdin)
	if err != nil {
		return "", err
	}
	if err := users.CheckPassword(password, u.Name, u.Email, u.DisplayName, cfg.AppName); err != nil {
		return "", err
	}
	if fromStdin {
		return password, nil
	}
	again, err := p.askPassword(ctx, "Password, again: ")
	if err != nil {
		return "", err
	}
	if password != again {
		return "", errors.New("the two passwords differ")
	}
	return password, nil
}

// terminal returns stdin if it is a terminal.
func (p Process) terminal() (fd int, ok bool) {
	in, ok := p.rawStdin.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return 0, false
	}
	return int(in.Fd()), true
}

// askPassword reads a password from the terminal, without echo. The terminal's state is
// restored even if ctx ends meanwhile.
func (p Process) askPassword(ctx context.Context, prompt string) (string, error) {
	fd, ok := p.terminal()
	if !ok {
		return "", wrongUse{errors.New("there is no terminal to ask for the password: give it on stdin, with --password-stdin")}
	}
	before, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("asking for the password: %w", err)
	}
	fmt.Fprint(p.Stderr, prompt)
	defer fmt.Fprintln(p.Stderr)
	password, err := answerOf(ctx, func() ([]byte, error) { return term.ReadPassword(fd) })
	if ctx.Err() != nil {
		err = errors.Join(err, term.Restore(fd, before))
	}
	return string(password), err
}

// askYes asks a question at the terminal, and reports whether the answer is yes.
func (p Process) askYes(question string) (bool, error) {
	fmt.Fprint(p.Stderr, question)
	line, err := bufio.NewReader(io.LimitReader(p.Stdin, 100)).ReadString('\n')
	if errors.Is(err, io.EOF) {
		err = nil
	}
	line = strings.ToLower(strings.TrimSpace(line))
	return err == nil && (line == "y" || line == "yes"), err
}

var errInterrupted = errors.New("interrupted")

// input is stdin for a command: a read ends with the context.
type input struct {
	ctx  context.Context
	from io.Reader
}

// Read reads into a buffer of its own, because a read that is given up goes on.
func (in *input) Read(b []byte) (int, error) {
	read, err := answerOf(in.ctx, func() ([]byte, error) {
		own := make([]byte, min(len(b), 32<<10))
		n, err := in.from.Read(own)
		return own[:n], err
	})
	return copy(b, read), err
}

// answerOf returns what ask returns, or [errInterrupted] if ctx ends before. Nothing
// interrupts the read of a terminal or a pipe; the process ends when ctx does.
func answerOf[T any](ctx context.Context, ask func() (T, error)) (none T, _ error) {
	type answer struct {
		text T
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		text, err := ask()
		answers <- answer{text, err}
	}()
	select {
	case a := <-answers:
		return a.text, a.err
	case <-ctx.Done():
		return none, errInterrupted
	}
}
