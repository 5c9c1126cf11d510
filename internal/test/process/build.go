package process

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gofrs/flock"
)

// Build builds the program of this module at path, with more flags than usual.
func Build(ctx context.Context, path string, flags ...string) error {
	return Go(ctx, path, "signet", flags...)
}

// Go builds the program in the package pkg at path. It is linked in the folder .cache of the
// module, where it stays: a package of tests that needs what another one has built copies it.
func Go(ctx context.Context, path, pkg string, flags ...string) error {
	mod, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return err
	}
	dir := filepath.Join(filepath.Dir(strings.TrimSpace(string(mod))), ".cache", "build")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	kept := filepath.Join(dir, fmt.Sprintf("%s-%.4x", filepath.Base(pkg), sha256.Sum256([]byte(strings.Join(append(flags, pkg), "\n")))))
	lock := flock.New(kept + ".lock")
	if err := lock.Lock(); err != nil {
		return err
	}
	defer lock.Unlock()
	if err := Compile(ctx, kept, pkg, flags...); err != nil {
		return err
	}
	program, err := os.ReadFile(kept)
	if err != nil {
		return err
	}
	return os.WriteFile(path, program, 0o755)
}

// Compile builds the program in the package pkg at path, for a test that shares it with no other.
// It is without C, as make builds it, unless it has the race detector, which is C.
func Compile(ctx context.Context, path, pkg string, flags ...string) error {
	cmd := exec.CommandContext(ctx, "go", slices.Concat([]string{"build", "-trimpath", "-o", path}, flags, []string{pkg})...)
	if !slices.Contains(flags, "-race") {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
	}
	return nil
}
