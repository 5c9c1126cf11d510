package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"signet/internal/test/npm"
)

// exampleBinaries builds all examples once.
var exampleBinaries = sync.OnceValues(func() (string, error) {
	path, err := plainBinary() // its directory is removed at the end
	if err != nil {
		return "", err
	}
	dir := filepath.Join(filepath.Dir(path), "examples")
	out, err := exec.Command("go", "build", "-o", dir+"/", "./examples/...").CombinedOutput()
	if err != nil {
		return "", &exec.Error{Name: "go build ./examples/...: " + string(out), Err: err}
	}
	return dir, nil
})

// StartExample runs an example in a directory of its own until it answers at base,
// and returns that directory.
func StartExample(t *testing.T, name, base string, settings ...string) (dir string) {
	t.Helper()
	binaries, err := exampleBinaries()
	if err != nil {
		t.Fatal(err)
	}
	return runExample(t, name, base, exec.Command(filepath.Join(binaries, name)), settings...)
}

// StartScript runs an example in JavaScript, as startExample does.
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

// runExample runs cmd in a directory of its own until it answers at base.
func runExample(t *testing.T, name, base string, cmd *exec.Cmd, settings ...string) (dir string) {
	t.Helper()
	cmd.Dir = t.TempDir()
	cmd.Env = append([]string{"HOME=" + cmd.Dir}, settings...)
	files, _ := filepath.Glob("examples/" + name + "/*.txt")
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
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		var err error
		select {
		case err = <-ended:
		case <-time.After(20 * time.Second):
			cmd.Process.Kill()
			err = <-ended
			t.Errorf("%s: still running 20 s after the interrupt", name)
		}
		if t.Failed() {
			t.Logf("%s wrote, before it ended with %v:\n%s", name, err, out)
		}
	})
	Eventually(t, func() bool {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("%s stopped at once: %v\n%s", name, err, out)
		default:
		}
		resp, err := http.Get(base)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return true
	})
	return cmd.Dir
}

// StartServerExample runs an example that is an authorization server as well.
func StartServerExample(t *testing.T, name string, settings ...string) (issuer, dir string) {
	t.Helper()
	port := FreePort(t)
	issuer = "http://localhost:" + port
	return issuer, StartExample(t, name, issuer+"/livez", append(settings, "SIGNET_ISSUER="+issuer, "SIGNET_LISTEN=127.0.0.1:"+port)...)
}
