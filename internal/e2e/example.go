package e2e

import (
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"signet/internal/test/npm"
	"signet/internal/test/process"
)

// StartExample runs an example in a directory of its own, waits until it listens at
// base, and returns the directory.
func StartExample(t *testing.T, name, base string, settings ...string) (dir string) {
	t.Helper()
	dir, err := BuildDir()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "example-"+name)
	if err := process.Go(t.Context(), program, "./examples/"+name, released...); err != nil {
		t.Fatal(err)
	}
	return runExample(t, name, base, exec.Command(program), settings...)
}

// StartScript runs an example in JavaScript, as StartExample does.
func StartScript(t *testing.T, path, base string, settings ...string) {
	t.Helper()
	node, dir := npm.Node(t), t.TempDir()
	modules, err := filepath.Abs(npm.Modules)
	if err == nil {
		err = os.Symlink(modules, filepath.Join(dir, "node_modules"))
	}
	script := filepath.Join(dir, filepath.Base(path))
	if err == nil {
		err = os.WriteFile(script, []byte(ReadText(t, path)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	runExample(t, path, base, exec.Command(node, script), settings...)
}

// StartPython runs an example in Python, as StartExample does. Where the system's Python
// lacks a package that it needs the test is skipped, or fails if SIGNET_TEST_ALL is set.
func StartPython(t *testing.T, path, base string, packages []string, settings ...string) {
	t.Helper()
	dir := t.TempDir()
	script := filepath.Join(dir, filepath.Base(path))
	if err := os.WriteFile(script, []byte(ReadText(t, path)), 0o600); err != nil {
		t.Fatal(err)
	}
	runExample(t, path, base, exec.Command(NeedPython(t, packages...), script), settings...)
}

// NeedPython returns the system's Python, which has the packages.
func NeedPython(t testing.TB, packages ...string) string {
	t.Helper()
	const python = "/usr/bin/python3" // the packages are Debian's
	check := exec.Command(python, "-c", "import "+strings.Join(packages, ","))
	check.Dir = t.TempDir()
	switch err := check.Run(); {
	case err == nil:
	case os.Getenv("SIGNET_TEST_ALL") != "":
		t.Fatalf("%s has no %s, and SIGNET_TEST_ALL lets nothing be skipped", python, strings.Join(packages, ", "))
	default:
		t.Skipf("%s has no %s", python, strings.Join(packages, ", "))
	}
	return python
}

func runExample(t *testing.T, name, base string, cmd *exec.Cmd, settings ...string) (dir string) {
	t.Helper()
	cmd.Dir = t.TempDir()
	cmd.Env = append([]string{"HOME=" + cmd.Dir}, settings...)
	files, _ := filepath.Glob("examples/" + name + "/*.[ty]*") // .txt and .yaml
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(filepath.Join(cmd.Dir, filepath.Base(file)), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	out := new(Buffer)
	cmd.Stdout, cmd.Stderr = out, out
	p, err := process.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.StopBy(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if p.Status() != 0 && filepath.Ext(name) == "" { // a program, not a script
			t.Errorf("%s ended with status %d on SIGTERM", name, p.Status())
		}
		if t.Failed() {
			t.Logf("%s ended with status %d and wrote:\n%s", name, p.Status(), out)
		}
	})
	at, err := url.Parse(base)
	if err == nil {
		err = p.Listens(t.Context(), at.Host)
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return cmd.Dir
}

// StartServerExample runs an example that is an authorization server as well.
func StartServerExample(t *testing.T, name string, settings ...string) (issuer, dir string) {
	t.Helper()
	port := FreePort(t)
	issuer = "http://localhost:" + port
	return issuer, StartExample(t, name, issuer+"/livez", append(settings, "SIGNET_ISSUER="+issuer, "SIGNET_LISTEN=127.0.0.1:"+port)...)
}
