package state_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"signet/internal/clients"
	"signet/internal/seal"
	"signet/internal/state"
	"signet/keys"
	"signet/users"
)

const (
	service  = 54321 // the user that the service runs as
	stranger = 54322
)

// kinds are the files that one rule is for, and the name of each in its folder.
var kinds = map[string]string{"users": "users", "clients": "clients.json", "keys": "key.pem", "secret": "secret"}

// attempt is one use of a file by the process under test.
type attempt struct {
	Kind, Dir string
	Group     bool // SIGNET_GROUP_READ
	Write     bool // make the file in place of reading it
}

// do returns the error of the attempt as text.
func (a attempt) do() string {
	var err error
	switch path := filepath.Join(a.Dir, kinds[a.Kind]); a.Kind {
	case "users":
		open := users.OpenFile
		if a.Group {
			open = users.OpenMounted
		}
		f, openErr := open(path)
		if err = openErr; err == nil && a.Write {
			_, err = f.Add(context.Background(), users.User{Name: "ann"}, "correct horse battery")
		}
	case "clients":
		ring, _ := seal.Parse(seal.NewSecret())
		_, err = clients.Open(clients.Options{Path: path, Ring: ring, GroupMayRead: a.Group})
		file := clients.File{Path: path, GroupMayRead: a.Group}
		if _, listErr := file.List(); (listErr == nil) != (err == nil) {
			err = fmt.Errorf("server and command disagree: %w, %w", err, listErr)
		}
		if err == nil && a.Write {
			_, _, err = file.Add(context.Background(), ring, clients.Spec{ID: "app", Public: true, RedirectURIs: []string{"https://app.test/"}})
		}
	case "keys": // nothing of Signet writes there
		read := keys.ReadDir
		if a.Group {
			read = keys.ReadMounted
		}
		_, err = read(a.Dir, time.Minute, nil)
	case "secret":
		d := state.Data{Dir: a.Dir, GroupMayRead: a.Group}
		if a.Write {
			_, err = state.Prepare(context.Background(), d)
		} else {
			_, err = d.Ring()
		}
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// TestMain is also the process of another user, which makes the attempts on its stdin.
func TestMain(m *testing.M) {
	if os.Getenv("SIGNET_TEST_ATTEMPTS") == "" {
		os.Exit(m.Run())
	}
	var all []attempt
	if err := json.NewDecoder(os.Stdin).Decode(&all); err != nil {
		panic(err)
	}
	said := make([]string, len(all))
	for i, a := range all {
		said[i] = a.do()
	}
	json.NewEncoder(os.Stdout).Encode(said)
}

// publicProgram is this program where every user may run it.
func publicProgram(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(publicDir(t), "program")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err := errors.Join(err, os.WriteFile(path, b, 0o755)); err != nil {
		t.Fatal(err)
	}
	return path
}

// attemptAs makes the attempts as another user.
func attemptAs(t *testing.T, program string, uid int, all []attempt) (said []string) {
	t.Helper()
	in, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Dir, cmd.Env, cmd.Stdin, cmd.Stderr = "/", []string{"SIGNET_TEST_ATTEMPTS=1"}, bytes.NewReader(in), os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &said)
	}
	if err != nil {
		t.Fatalf("as user %d: %v", uid, err)
	}
	return said
}

// publicDir is a folder that every user may enter.
func publicDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// contents are files of each kind that are fine.
func contents(t *testing.T) map[string][]byte {
	t.Helper()
	f, err := users.OpenFile(filepath.Join(t.TempDir(), "users"))
	if err == nil {
		_, err = f.Add(t.Context(), users.User{Name: "ann"}, "correct horse battery")
	}
	key, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(f.LogValue().String())
	der, err2 := x509.MarshalPKCS8PrivateKey(key)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{
		"users": text, "clients": []byte(`{"clients":[]}`), "secret": []byte(seal.NewSecret() + "\n"),
		"keys": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	}
}

// place is a folder with one file, each of an owner and a mode. The group of both is the
// service's.
type place struct {
	folder   fs.FileMode
	folderOf int
	file     fs.FileMode
	fileOf   int
	mounted  bool // the file is a link, as Kubernetes mounts a secret
}

func (p place) make(t *testing.T, dir, name string, content []byte) {
	t.Helper()
	path := filepath.Join(dir, name)
	err := os.MkdirAll(dir, 0o755)
	if p.mounted {
		real := filepath.Join(dir, "..2026_01_02")
		err = errors.Join(err, os.Mkdir(real, 0o755), os.Symlink("..2026_01_02", filepath.Join(dir, "..data")), os.Symlink("..data/"+name, path))
		path = filepath.Join(real, name)
		err = errors.Join(err, os.Chown(real, p.folderOf, service))
	}
	if content != nil {
		err = errors.Join(err, os.WriteFile(path, content, 0o600), os.Chown(path, p.fileOf, service), os.Chmod(path, p.file))
	}
	if err := errors.Join(err, os.Chown(dir, p.folderOf, service), os.Chmod(dir, p.folder)); err != nil {
		t.Fatal(err)
	}
}

// One rule says which files are read, whatever they are, by the server and by commands,
// and names the command that mends what it refuses.
func TestOneRuleSaysWhichFilesAreRead_L01(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may change owners")
	}
	program, files := publicProgram(t), contents(t)
	const sticky = fs.ModeSticky
	own, roots := place{0o700, service, 0o600, service, false}, place{0o755, 0, 0o440, 0, false}
	with := func(p place, change func(*place)) place { change(&p); return p }
	mode := func(p place, m fs.FileMode) place { p.file = m; return p }
	folder := func(p place, m fs.FileMode) place { p.folder = m; return p }
	mount := place{0o777 | sticky, 0, 0o440, 0, true}
	const chmodFile, chmodShared, chmodFolder = "chmod 0600 ", "chmod 0640 ", "chmod 0700 "
	for _, tt := range []struct {
		name  string
		place place
		group bool
		// What the refusal says to the service and to root. Empty: there is none.
		service, root string
	}{
		{"the service's own", own, false, "", ""},
		{"the service's own, with the setting", own, true, "", ""},
		{"read-only", mode(own, 0o400), false, "", ""},
		{"in a folder that others may enter", folder(own, 0o755), false, "", ""},
		{"linked", place{0o700, service, 0o600, service, true}, false, "", ""},

		{"0640", mode(own, 0o640), false, chmodFile, chmodFile},
		{"0640 with the setting", mode(own, 0o640), true, "", ""},
		{"0440 with the setting", mode(own, 0o440), true, "", ""},
		{"0660 with the setting", mode(own, 0o660), true, chmodShared, chmodShared},
		{"0644 with the setting", mode(own, 0o644), true, chmodShared, chmodShared},
		{"0604", mode(own, 0o604), false, chmodFile, chmodFile},
		{"0620", mode(own, 0o620), false, chmodFile, chmodFile},
		{"0602", mode(own, 0o602), false, chmodFile, chmodFile},
		{"0610", mode(own, 0o610), false, chmodFile, chmodFile},
		{"0777", mode(own, 0o777), false, chmodFile, chmodFile},

		{"of a stranger", with(own, func(p *place) { p.fileOf = stranger; p.file = 0o440 }), true, fmt.Sprintf("chown %d ", service), fmt.Sprintf("chown %d ", service)},
		{"in the folder of a stranger", with(own, func(p *place) { p.folderOf = stranger; p.folder = 0o755 }), false, fmt.Sprintf("chown %d ", service), fmt.Sprintf("chown %d ", stranger)},
		{"a stranger's, in its folder", place{0o755, stranger, 0o440, stranger, false}, true, fmt.Sprintf("chown %d ", service), ""},
		{"root's, shared with the group", roots, true, "", ""},
		{"root's, shared without the setting", roots, false, chmodFile, chmodFile},
		{"root's, in the service's folder", with(roots, func(p *place) { p.folder, p.folderOf = 0o700, service }), true, "", ""},
		{"the service's, in root's folder", with(own, func(p *place) { p.folder, p.folderOf = 0o755, 0 }), false, "", "chown 0 "},

		{"in a folder that all write to", folder(own, 0o777), false, chmodFolder, chmodFolder},
		{"in a folder that the group writes to", folder(own, 0o770), false, chmodFolder, chmodFolder},
		{"in a sticky folder", folder(own, 0o777|sticky), false, "", ""},
		{"mounted by Kubernetes", mount, true, "", ""},
		{"mounted by Kubernetes, without the setting", mount, false, chmodFile, chmodFile},
		{"mounted, in a folder without the sticky bit", folder(mount, 0o777), true, chmodFolder, chmodFolder},
		{"mounted, for all to read", mode(mount, 0o444), true, chmodShared, chmodShared},
		{"mounted by another user", with(mount, func(p *place) { p.fileOf = stranger }), true, fmt.Sprintf("chown %d ", service), "chown 0 "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var all []attempt
			base := publicDir(t)
			for kind, content := range files {
				a := attempt{Kind: kind, Dir: filepath.Join(base, kind), Group: tt.group}
				tt.place.make(t, a.Dir, kinds[kind], content)
				all = append(all, a)
			}
			for i, said := range attemptAs(t, program, service, all) {
				checkSaid(t, "the service", all[i], said, tt.service)
			}
			for _, a := range all {
				checkSaid(t, "root", a, a.do(), tt.root)
			}
		})
	}
}

func checkSaid(t *testing.T, who string, a attempt, said, want string) {
	t.Helper()
	switch {
	case want == "" && said != "":
		t.Errorf("%s is refused to %s: %s", a.Kind, who, said)
	case want != "" && !strings.Contains(said, want+a.Dir):
		t.Errorf("%s, to %s: %q, want something with %q", a.Kind, who, said, want+a.Dir)
	}
}

// No file is made in a folder in which other users can make files. What root makes belongs
// to the service, which goes on with it.
func TestOneRuleSaysWhereFilesAreMade_L01(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may change owners")
	}
	program := publicProgram(t)
	const chmodFolder = "chmod 0700 "
	for _, tt := range []struct {
		name   string
		folder fs.FileMode
		of     int
		// What the refusal says to the service and to root. Empty: there is none.
		service, root string
	}{
		{"the service's own", 0o700, service, "", ""},
		{"that others may enter", 0o755, service, "", ""},
		{"that the group writes to", 0o770, service, chmodFolder, chmodFolder},
		{"that all write to", 0o777, service, chmodFolder, chmodFolder},
		{"sticky", 0o777 | fs.ModeSticky, service, chmodFolder, chmodFolder},
		{"root's and sticky", 0o777 | fs.ModeSticky, 0, chmodFolder, chmodFolder},
	} {
		t.Run(tt.name, func(t *testing.T) {
			try := func(attempts func([]attempt) []string) (all []attempt, said []string) {
				base := publicDir(t)
				for kind, name := range kinds {
					if kind == "keys" {
						continue
					}
					a := attempt{Kind: kind, Dir: filepath.Join(base, kind), Write: true}
					place{folder: tt.folder, folderOf: tt.of}.make(t, a.Dir, name, nil)
					all = append(all, a)
				}
				return all, attempts(all)
			}
			asService := func(all []attempt) []string { return attemptAs(t, program, service, all) }
			all, said := try(asService)
			for i := range all {
				checkSaid(t, "the service", all[i], said[i], tt.service)
			}
			all, said = try(func(all []attempt) (said []string) {
				for _, a := range all {
					said = append(said, a.do())
				}
				return said
			})
			var again []attempt
			for i, a := range all {
				checkSaid(t, "root", a, said[i], tt.root)
				checkOwners(t, a.Dir, tt.of)
				if tt.root == "" {
					a.Write = a.Kind == "secret" // which is there, so this reads it and checks the rest
					again = append(again, a)
				}
			}
			for i, said := range asService(again) {
				checkSaid(t, "the service after root", again[i], said, "")
			}
		})
	}
}

// checkOwners says which files below dir do not belong to uid.
func checkOwners(t *testing.T, dir string, uid int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && int(info.Sys().(*syscall.Stat_t).Uid) != uid {
			t.Errorf("%s belongs to user %d, want %d", path, info.Sys().(*syscall.Stat_t).Uid, uid)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
