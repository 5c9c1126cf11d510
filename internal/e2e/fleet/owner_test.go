package fleet

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"signet/internal/e2e"
	"strings"
	"syscall"
	"testing"
)

const serviceID = "54321" // user ID of the service

// asService returns the prefix of a command that runs as the service.
func asService(t *testing.T) (prefix []string) {
	t.Helper()
	return []string{e2e.Need(t, "setpriv"), "--reuid=" + serviceID, "--regid=" + serviceID, "--clear-groups"}
}

// serviceDaemon is a server that runs as another user, with a data directory as systemd
// makes it. All users may run its program.
func serviceDaemon(t *testing.T) *e2e.Program {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may run programs as other users")
	}
	d := e2e.New(t, nil)
	bin := t.TempDir()
	b, err := os.ReadFile(e2e.Binary(t))
	err = errors.Join(err, os.WriteFile(filepath.Join(bin, "signet"), b, 0o755), os.Mkdir(d.Dir, 0o700), os.Lchown(d.Dir, 54321, 54321))
	for _, dir := range []string{filepath.Dir(bin), bin, filepath.Dir(filepath.Dir(d.Dir)), filepath.Dir(d.Dir)} {
		err = errors.Join(err, os.Chmod(dir, 0o755))
	}
	if err != nil {
		t.Fatal(err)
	}
	d.Path, d.Prefix = filepath.Join(bin, "signet"), asService(t)
	return d
}

// runs runs a command line in the shell. It must succeed, and all files in the data
// directory must belong to the service.
func runs(t *testing.T, d *e2e.Program, prefix []string, line, stdin string) string {
	t.Helper()
	cmd := exec.Command("sh", "-c", line)
	if len(prefix) > 0 {
		cmd = exec.Command(prefix[0], append(prefix[1:len(prefix):len(prefix)], "sh", "-c", line)...)
	}
	cmd.Dir = filepath.Dir(d.Path)
	cmd.Env = append(d.Env[:len(d.Env):len(d.Env)], "PATH="+cmd.Dir+":"+os.Getenv("PATH"))
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s", line, err, out)
	}
	err = filepath.WalkDir(d.Dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // a running server removed it
			return nil
		}
		if err != nil {
			return err
		}
		if info, err := e.Info(); err == nil && info.Sys().(*syscall.Stat_t).Uid != 54321 {
			t.Errorf("after %s: %s belongs to user %d", line, path, info.Sys().(*syscall.Stat_t).Uid)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// guideLine returns the command of docs/deploy.md that begins with a text, for the
// directory of d.
func guideLine(t *testing.T, d *e2e.Program, begins string) string {
	t.Helper()
	for line := range strings.Lines(e2e.ReadText(t, "docs/deploy.md")) {
		if strings.HasPrefix(line, begins) {
			line, _, _ = strings.Cut(line, "  #")
			return strings.NewReplacer("/var/lib/signet", d.Dir, "https://auth.example.com", d.Issuer).Replace(strings.TrimSpace(line))
		}
	}
	t.Fatalf("docs/deploy.md has no command %q", begins)
	return ""
}

// The commands of the guide, and all others that touch the data, work as root and as
// the service, before its first start, beside it and after it. Files that root makes
// belong to the service.
func TestCommandsOfRootLeaveEverythingToTheService_L01(t *testing.T) {
	d := serviceDaemon(t)
	addAnn := guideLine(t, d, "SIGNET_DATA_DIR=/var/lib/signet signet user add ann") + " --password-stdin"
	ready := guideLine(t, d, "SIGNET_ISSUER=https://auth.example.com signet doctor --ready")
	all := func(when string) {
		for user, prefix := range map[string][]string{"root": nil, "service": asService(t)} {
			name := user + "-" + when
			runs(t, d, prefix, "signet user add "+name+" --password-stdin", e2e.AnnsPassword)
			runs(t, d, prefix, "signet user passwd "+name+" --password-stdin", e2e.AnnsPassword+"s")
			for _, line := range []string{
				"signet user disable " + name, "signet user list", "signet user remove " + name,
				"signet client add " + name + " --redirect-uri https://app.test/", "signet client list", "signet client remove " + name,
				"signet grant list", "signet grant revoke --user ann", "signet key list", "signet key rotate", "signet backup - >/dev/null", "signet doctor",
			} {
				if when == "first" && strings.HasPrefix(line, "signet key rotate") {
					continue // no server has made a key yet
				}
				runs(t, d, prefix, line, "")
			}
		}
	}
	runs(t, d, nil, addAnn, e2e.AnnsPassword)
	all("first")
	d.Start()
	all("beside")
	if got := runs(t, d, nil, ready, ""); !strings.Contains(got, "ok") {
		t.Errorf("%s: %s", ready, got)
	}
	runs(t, d, nil, "signet secret rotate", "")
	d.Stop()
	all("stopped")
	runs(t, d, nil, "signet secret rotate --finish --now", "")
	d.Start()
	e2e.Register(t, d.Issuer, e2e.RedirectURI).Code(t, "ann", e2e.AnnsPassword)
}

// Files that Kubernetes mounts with mode 0440 are accepted by every command, not only
// by the server, and by none without the setting.
func TestCommandsTakeMountedFiles_L01(t *testing.T) {
	d := serviceDaemon(t)
	runs(t, d, asService(t), "signet user add ann --password-stdin && signet client add app --public --redirect-uri https://app.test/", e2e.AnnsPassword)
	mount := mountedSecret(t, d.Dir)
	real := filepath.Join(mount, "..2026_01_02")
	b, err := os.ReadFile(filepath.Join(d.Dir, "clients.json"))
	err = errors.Join(err, os.WriteFile(filepath.Join(real, "clients.json"), b, 0o440), os.Symlink("..data/clients.json", filepath.Join(mount, "clients.json")),
		os.Remove(filepath.Join(d.Dir, "users")), os.Remove(filepath.Join(d.Dir, "clients.json")), os.Chmod(filepath.Dir(mount), 0o755))
	for _, name := range []string{"users", "clients.json"} {
		err = errors.Join(err, os.Chown(filepath.Join(real, name), 0, 54321))
	}
	if err != nil {
		t.Fatal(err)
	}
	d.Env = append(d.Env, "SIGNET_USERS_FILE="+filepath.Join(mount, "users"), "SIGNET_CLIENTS_FILE="+filepath.Join(mount, "clients.json"))
	for _, prefix := range [][]string{nil, asService(t)} {
		for line, want := range map[string]string{"signet user list": "ann", "signet client list": "app", "signet doctor": "clients", "signet backup - | grep -a users": "users"} {
			if got := runs(t, d, prefix, "SIGNET_GROUP_READ=true "+line, ""); !strings.Contains(got, want) {
				t.Errorf("%s: %s", line, got)
			}
		}
		for _, line := range []string{"signet user list", "signet client list", "signet doctor", "signet backup - >/dev/null"} {
			if got := runs(t, d, prefix, "! "+line, ""); !strings.Contains(got, "chmod 0600") {
				t.Errorf("%s, without the setting: %s", line, got)
			}
		}
	}
}
