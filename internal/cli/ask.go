package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"signet/users"
	"strings"

	"golang.org/x/term"
)

// readLine reads one secret line from stdin. A second line means that something
// else was piped in.
func readLine(r io.Reader, what string) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, 64<<10))
	if err != nil {
		return "", fmt.Errorf("reading the %s: %w", what, err)
	}
	line := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if line == "" {
		return "", wrongUse{fmt.Errorf("no %s on stdin", what)}
	}
	if strings.ContainsAny(line, "\n") {
		return "", wrongUse{errors.New("more than one line on stdin")}
	}
	return line, nil
}

// readPassword reads one line. What it cuts is the end of the line, nothing else of
// the password.
func readPassword(r io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(r, users.MaxPassword+3)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("reading the password: %w", err)
	}
	password := strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
	if password == "" {
		return "", wrongUse{errors.New("no password on stdin")}
	}
	return password, nil
}

// askPassword reads a password from the terminal, without echo. The terminal is as
// before also when ctx ends meanwhile.
func askPassword(ctx context.Context, p Process, prompt string) (string, error) {
	in, ok := p.Stdin.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return "", wrongUse{errors.New("there is no terminal to ask for the password: give it on stdin, with --password-stdin")}
	}
	before, err := term.GetState(int(in.Fd()))
	if err != nil {
		return "", fmt.Errorf("asking for the password: %w", err)
	}
	fmt.Fprint(p.Stderr, prompt)
	defer fmt.Fprintln(p.Stderr)
	type answer struct {
		password []byte
		err      error
	}
	answers := make(chan answer, 1)
	go func() { // nothing interrupts the read; the process ends when ctx does
		password, err := term.ReadPassword(int(in.Fd()))
		answers <- answer{password, err}
	}()
	select {
	case a := <-answers:
		return string(a.password), a.err
	case <-ctx.Done():
		return "", errors.Join(errors.New("interrupted"), term.Restore(int(in.Fd()), before))
	}
}

// newPassword asks for a password for u twice, or reads it from stdin if it is told
// so. It returns none that is easy to guess.
func newPassword(ctx context.Context, p Process, fromStdin bool, cfg *config, u users.User) (password string, err error) {
	if fromStdin {
		password, err = readPassword(p.Stdin)
	} else {
		password, err = askPassword(ctx, p, "Password: ")
	}
	if err != nil {
		return "", err
	}
	if err := users.CheckPassword(password, u.Name, u.Email, u.DisplayName, cfg.AppName); err != nil {
		return "", err
	}
	if fromStdin {
		return password, nil
	}
	again, err := askPassword(ctx, p, "Password, again: ")
	if err != nil {
		return "", err
	}
	if password != again {
		return "", errors.New("the two passwords differ")
	}
	return password, nil
}

func passwordFor(ctx context.Context, p Process) (string, error) {
	if in, ok := p.Stdin.(*os.File); ok && term.IsTerminal(int(in.Fd())) {
		return askPassword(ctx, p, "Password: ")
	}
	return readPassword(p.Stdin)
}

// readToken takes the token from stdin: an argument would be visible to every
// process of the machine.
func readToken(r io.Reader) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxTokenInput+1))
	if err != nil {
		return "", fmt.Errorf("reading the token: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" {
		return "", wrongUse{fmt.Errorf("no token on stdin")}
	}
	if len(b) > maxTokenInput {
		return "", fmt.Errorf("input is longer than %d bytes: not a token", maxTokenInput)
	}
	return token, nil
}
