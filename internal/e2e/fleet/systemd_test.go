package fleet

import (
	"bufio"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"signet/internal/e2e"
)

const unitFile = "deploy/systemd/signet.service"

// settingsOf returns the lines of a unit, by name, in order.
func settingsOf(t *testing.T, unit string) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for line := range strings.Lines(unit) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
			all[name] = append(all[name], value)
		}
	}
	return all
}

// systemd accepts the unit, and rates the exposure of the service as low.
func TestUnitIsUnderstoodAndConfined(t *testing.T) {
	analyze := e2e.Need(t, "systemd-analyze")
	unit := e2e.ReadText(t, unitFile)
	path := filepath.Join(t.TempDir(), "signet.service")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(unit, "/usr/local/bin/signet", e2e.Binary(t))), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(analyze, "verify", "--man=no", path).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("verify: %v\n%s", err, out)
	}
	if out, err := exec.Command(analyze, "security", "--offline=true", "--no-pager", "--threshold=15", path).CombinedOutput(); err != nil {
		t.Errorf("exposed more than 1.5 of 10: %v\n%s", err, out)
	}
	s := settingsOf(t, unit)
	timeout, err := time.ParseDuration(s["TimeoutStopSec"][0] + "s")
	if err != nil || timeout <= 5*time.Second+25*time.Second {
		t.Errorf("TimeoutStopSec=%s kills a server before the end of its drain delay and 25 s (%v)", s["TimeoutStopSec"], err)
	}
	if sysusers := e2e.ReadText(t, "deploy/systemd/signet.sysusers"); !strings.Contains(sysusers, "u "+s["User"][0]+" -") {
		t.Errorf("no file creates the user %s", s["User"])
	}
}

// A command that is run with the service's settings works on the service's data. The unit names the
// directory too: an older file of settings does not.
func TestSettingsOfTheServiceNameItsDirectory(t *testing.T) {
	unit := settingsOf(t, e2e.ReadText(t, unitFile))
	dir := settingsOf(t, e2e.ReadText(t, "deploy/systemd/signet.env"))["SIGNET_DATA_DIR"]
	if len(dir) != 1 || dir[0] != "/var/lib/"+unit["StateDirectory"][0] || !slices.Equal(unit["Environment"], []string{"SIGNET_DATA_DIR=" + dir[0]}) {
		t.Errorf("the file names the data directory %q, and the unit sets %q", dir, unit["Environment"])
	}
}

// callSets returns the sets of system calls that systemd knows, each with its members.
func callSets(t *testing.T) map[string][]string {
	t.Helper()
	out, err := exec.Command(e2e.Need(t, "systemd-analyze"), "syscall-filter", "--no-pager").Output()
	if err != nil {
		t.Fatal(err)
	}
	sets, set := map[string][]string{}, ""
	for line := range strings.Lines(string(out)) {
		name := strings.TrimSpace(line)
		switch {
		case name == "" || strings.HasPrefix(name, "#"):
		case !strings.HasPrefix(line, " "):
			set = name
		default:
			sets[set] = append(sets[set], name)
		}
	}
	return sets
}

func resolve(sets map[string][]string, name string, into map[string]bool) {
	if !strings.HasPrefix(name, "@") {
		into[name] = true
		return
	}
	for _, member := range sets[name] {
		resolve(sets, member, into)
	}
}

// filtered returns the system calls that the unit allows, and the calls that it then
// excludes.
func filtered(t *testing.T, filters []string) (allowed, denied map[string]bool) {
	t.Helper()
	sets := callSets(t)
	allowed, denied = map[string]bool{}, map[string]bool{}
	for _, f := range filters {
		to, list := allowed, f
		if rest, ok := strings.CutPrefix(f, "~"); ok {
			to, list = denied, rest
		}
		for _, name := range strings.Fields(list) {
			resolve(sets, name, to)
		}
	}
	for name := range denied {
		delete(allowed, name)
	}
	if !allowed["read"] || !denied["reboot"] {
		t.Fatalf("the filter %q is not understood", filters)
	}
	return allowed, denied
}

var (
	callTraced = regexp.MustCompile(`^\d+ +(?:<\.\.\. )?([a-z]\w*)(?:\(| resumed)`)
	executable = regexp.MustCompile(`^\d+ +(mmap\(.*PROT_WRITE\|PROT_EXEC|(?:pkey_)?mprotect\(.*PROT_EXEC)`)
)

// The program works under the unit's filter: while excluded calls fail as the unit
// makes them fail, it makes no other forbidden call, and maps no memory both writable
// and executable.
func TestUnitLetsTheProgramWork(t *testing.T) {
	strace := e2e.Need(t, "strace")
	s := settingsOf(t, e2e.ReadText(t, unitFile))
	allowed, denied := filtered(t, s["SystemCallFilter"])
	if s["SystemCallErrorNumber"][0] != "EPERM" || s["MemoryDenyWriteExecute"][0] != "yes" {
		t.Fatal("the unit does not have the lines that this test expects")
	}
	inject := "?" + strings.Join(slices.Sorted(maps.Keys(denied)), ",?") + ":error=EPERM"
	trace := filepath.Join(t.TempDir(), "trace")
	d := e2e.Start(t, nil)
	if status, _, errOut := e2e.Signet(t, d.Dir, e2e.AnnsPassword, "user", "add", "ann", "--password-stdin"); status != 0 {
		t.Fatal(errOut)
	}
	d.Stop()
	d.Prefix = []string{strace, "-f", "-qq", "-o", trace, "-e", "inject=" + inject}
	d.Start()
	client := e2e.Register(t, d.Issuer, e2e.RedirectURI)
	back := e2e.SignIn(t, client.AuthorizationURL("s"), "ann", e2e.AnnsPassword)
	tok := client.Exchange(t, back.Query().Get("code"))
	if _, status := client.Refresh(t, tok.RefreshToken); status != 200 {
		t.Errorf("refresh: %d", status)
	}
	if status := e2e.Call(t, d.Issuer+"/mcp", tok.AccessToken); status != 200 {
		t.Errorf("an MCP call: %d", status)
	}
	d.StopTraced()

	used := map[string]string{}
	f, err := os.Open(trace)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		if m := callTraced.FindStringSubmatch(line); m != nil && used[m[1]] == "" {
			used[m[1]] = line
		}
		if executable.MatchString(line) {
			t.Errorf("MemoryDenyWriteExecute forbids %s", line)
		}
	}
	if used["openat"] == "" || used["accept4"] == "" {
		t.Fatalf("the trace shows %q: the test is blind", slices.Sorted(maps.Keys(used)))
	}
	for name, line := range used {
		switch {
		case denied[name]:
			t.Logf("excluded, and not needed: %s", line)
		case !allowed[name]:
			t.Errorf("not allowed: %s", line)
		}
	}
}
