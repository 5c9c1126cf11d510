package docs

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"signet/internal/e2e"
	"signet/internal/gatewayconfig"
	"signet/internal/upstream"
)

// notRun are the blocks of the documents that are marked no-test, with the reason.
var notRun = map[string]string{
	"make run":  "builds in the checkout and serves for ever; every other block runs against such a server",
	"make test": "runs this test",

	"echo demo_password | ./signet call everything.echo --server http://localhost:8080/mcp --username demo_user message=hello": "fetches a program from npm; the tests of internal/e2e/gateway call the same tool",

	"make cluster": "serves until it is stopped; the tests of internal/test/cluster start the same",
	"make chaos":   "takes most of an hour; the tests run a minute of it",
}

// notChecked are the languages of blocks that no test can check, with the reason.
var notChecked = map[string]string{
	"text":  "output, and input of other programs",
	"caddy": "Caddy is in no Debian package that can be pinned here",
	"yaml":  "Traefik and Envoy are not packaged",
	"toml":  "the settings of another program, Codex",
	"html":  "a template, whose form the server checks at its start",
}

// Every command of the documents runs, in order, beside a demo server.
func TestCommandsOfTheDocumentsRun_Row91(t *testing.T) {
	used := map[string]bool{}
	for _, file := range e2e.Documents(t) {
		shell := e2e.Blocks(t, file, "sh")
		for _, b := range shell {
			if key := strings.TrimSpace(b.Text); b.NoTest && notRun[key] != "" {
				used[key] = true
			} else if b.NoTest {
				t.Errorf("%s: notRun has no reason for it", b)
			}
		}
		shell = slices.DeleteFunc(shell, func(b e2e.Block) bool { return b.NoTest })
		if len(shell) == 0 {
			continue
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".md"), func(t *testing.T) {
			d := e2e.Start(t, nil, "--demo")
			dir := t.TempDir()
			if err := os.Symlink(e2e.Binary(t), filepath.Join(dir, "signet")); err != nil {
				t.Fatal(err)
			}
			for _, b := range shell {
				if strings.Contains(b.Text, "./signet serve") {
					serveBlock(t, b)
				} else {
					runBlock(t, d, dir, b)
				}
			}
		})
	}
	for key, why := range notRun {
		if !used[key] {
			t.Errorf("%q is in no document, but in notRun (%s)", key, why)
		}
	}
}

func shell(text string, env []string, dir string) (*exec.Cmd, *e2e.Buffer) {
	cmd, out := exec.Command("bash", "-euo", "pipefail", "-c", text), new(e2e.Buffer)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = env, dir, out, out
	return cmd, out
}

func runBlock(t *testing.T, d *e2e.Program, dir string, b e2e.Block) {
	t.Helper()
	text := strings.ReplaceAll(b.Text, "http://localhost:8080", d.Issuer)
	cmd, out := shell(text, d.Env, dir)
	if err := cmd.Run(); err != nil {
		t.Errorf("%s: %v\n%s\n%s", b, err, text, out)
	}
}

// serveBlock runs a block that ends by starting a server, and waits until it serves.
func serveBlock(t *testing.T, b e2e.Block) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Symlink(e2e.Binary(t), filepath.Join(dir, "signet")); err != nil {
		t.Fatal(err)
	}
	listen := "127.0.0.1:" + e2e.FreePort(t)
	text := strings.NewReplacer("127.0.0.1:8080", listen, "./signet serve", "exec ./signet serve").Replace(b.Text)
	d := &e2e.Program{
		T: t, Path: "bash", Args: []string{"-euo", "pipefail", "-c", text}, Cwd: dir,
		Env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "SIGNET_LISTEN=" + listen, "SIGNET_ISSUER=http://" + listen, "SIGNET_METRICS_LISTEN=off", "SIGNET_DRAIN_DELAY=1ms"},
	}
	t.Cleanup(d.Kill)
	d.Start()
	if status := d.Stop(); status != 0 {
		t.Errorf("%s: after SIGTERM: exit status %d\n%s", b, status, d.Output())
	}
}

// Go, JavaScript and Python code of the documents stands in an example, which is built and run.
func TestCodeOfTheDocumentsStandsInAnExample_Row91(t *testing.T) {
	files, err := filepath.Glob("examples/*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	scripts, err := filepath.Glob("examples/*/*.mjs")
	if err != nil {
		t.Fatal(err)
	}
	python, err := filepath.Glob("examples/*/*.py")
	if err != nil {
		t.Fatal(err)
	}
	files = slices.Concat(files, scripts, python)
	files = append(files, "server/example_test.go")
	var examples []string
	for _, f := range files {
		examples = append(examples, unindent(e2e.ReadText(t, f)))
	}
	for _, file := range e2e.Documents(t) {
		for _, b := range slices.Concat(e2e.Blocks(t, file, "go"), e2e.Blocks(t, file, "js"), e2e.Blocks(t, file, "python")) {
			if text := unindent(b.Text); !slices.ContainsFunc(examples, func(e string) bool { return strings.Contains(e, text) }) {
				t.Errorf("%s: no example contains this code:\n%s", b, b.Text)
			}
		}
	}
}

func unindent(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "\n")
}

// Blocks that are neither run nor compiled are JSON, or of a language in notChecked.
func TestOtherBlocksOfTheDocumentsAreChecked_Row91(t *testing.T) {
	for _, file := range e2e.Documents(t) {
		for _, b := range e2e.Blocks(t, file, "") {
			switch b.Lang {
			case "sh", "go", "js", "python", "nginx": // other tests check these
			case "json":
				if !json.Valid([]byte(b.Text)) {
					t.Errorf("%s: not JSON", b)
				}
			default:
				if notChecked[b.Lang] == "" {
					t.Errorf("%s: no test checks %q", b, b.Lang)
				}
			}
		}
	}
}

var (
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading  = regexp.MustCompile(`(?m)^#+ (.*)$`)
	notSlug  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	exported = regexp.MustCompile("`(server|mcp|jwt|keys|users|handlers)\\.([A-Z]\\w*)(?:\\.([A-Z]\\w*))?[^`]*`")
)

// Links between the documents lead somewhere, also to the right heading.
func TestLinksOfTheDocuments(t *testing.T) {
	anchors := map[string][]string{}
	for _, file := range e2e.Documents(t) {
		for _, h := range heading.FindAllStringSubmatch(e2e.ReadText(t, file), -1) {
			slug := strings.ReplaceAll(notSlug.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-")
			anchors[file] = append(anchors[file], slug)
		}
	}
	for _, file := range e2e.Documents(t) {
		for _, m := range link.FindAllStringSubmatch(e2e.ReadText(t, file), -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			path := file
			if target != "" {
				path = filepath.Join(filepath.Dir(file), target)
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s: dead link %s", file, m[1])
			} else if anchor != "" && !slices.Contains(anchors[path], anchor) {
				t.Errorf("%s: %s has no heading #%s", file, path, anchor)
			}
		}
	}
}

// Go names in the documents are exported.
func TestGoNamesInTheDocumentsExist(t *testing.T) {
	known := map[string]bool{}
	for _, dir := range []string{"server", "mcp", "jwt", "keys", "users", "handlers"} {
		for _, name := range exportedNames(t, dir) {
			known[dir+"."+name] = true
		}
	}
	for _, file := range e2e.Documents(t) {
		for _, m := range exported.FindAllStringSubmatch(e2e.ReadText(t, file), -1) {
			name := m[1] + "." + m[2]
			if m[3] != "" {
				name += "." + m[3]
			}
			if !known[name] {
				t.Errorf("%s: there is no %s", file, name)
			}
		}
	}
}

// exportedNames are the functions, types, values, methods and fields of a package.
func exportedNames(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(dir + "/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range f.Decls {
			names = append(names, declared(decl)...)
		}
	}
	return names
}

func declared(decl ast.Decl) (names []string) {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil {
			return []string{d.Name.Name}
		}
		of := d.Recv.List[0].Type
		if p, ok := of.(*ast.StarExpr); ok {
			of = p.X
		}
		if id, ok := of.(*ast.Ident); ok {
			names = append(names, id.Name+"."+d.Name.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.ValueSpec:
				for _, id := range s.Names {
					names = append(names, id.Name)
				}
			case *ast.TypeSpec:
				names = append(names, s.Name.Name)
				if st, ok := s.Type.(*ast.StructType); ok {
					for _, field := range st.Fields.List {
						for _, id := range field.Names {
							names = append(names, s.Name.Name+"."+id.Name)
						}
					}
				}
			}
		}
	}
	return names
}

// The program contains every message that the guide explains. The guide has an ellipsis
// where the program inserts a value.
func TestMessagesOfTheTroubleshootingGuideExist(t *testing.T) {
	said := programTexts(t)
	for _, b := range messagesOf(e2e.ReadText(t, "docs/troubleshooting.md")) {
		for part := range strings.SplitSeq(b, "…") {
			if part = strings.Trim(part, " :`\"'"); len(part) > 3 && !strings.Contains(said, part) {
				t.Errorf("the program does not contain %q (of %q)", part, b)
			}
		}
	}
}

// messagesOf returns the first cells of the guide's tables.
func messagesOf(guide string) (list []string) {
	for line := range strings.Lines(guide) {
		cell, _, ok := strings.Cut(strings.TrimPrefix(line, "| "), " | ")
		if !ok || !strings.HasPrefix(line, "| `") {
			continue
		}
		for i, m := range strings.Split(cell, "`") {
			if i%2 == 1 { // between backquotes
				list = append(list, m)
			}
		}
	}
	return list
}

// programTexts returns every string of the program and its pages.
func programTexts(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(".", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := e.Name(); e.IsDir() && name != "." && (strings.HasPrefix(name, ".") || path == "internal/test" || path == "internal/e2e" || name == "examples") {
			return fs.SkipDir
		}
		switch {
		case path == "handlers/pages/messages.json":
			b.WriteString(e2e.ReadText(t, path))
		case strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
			b.WriteString(stringsOf(t, path))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func stringsOf(t *testing.T, path string) string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	ast.Inspect(f, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			b.WriteString(strings.NewReplacer(`\"`, `"`, `\n`, " ").Replace(strings.Trim(lit.Value, "\"`")) + "\n")
		}
		return true
	})
	return b.String()
}

// Every file of upstreams in the documents is one that the server starts with.
func TestUpstreamFilesOfTheDocumentsAreRight_Row91(t *testing.T) {
	found := 0
	for _, file := range e2e.Documents(t) {
		for _, b := range e2e.Blocks(t, file, "yaml") {
			if !strings.HasPrefix(b.Text, "upstreams:") {
				continue
			}
			found++
			if _, err := upstream.Parse([]byte(b.Text), func(string) (string, bool) { return "secret", true }); err != nil {
				t.Errorf("%s: %v", b, err)
			}
		}
	}
	if found == 0 {
		t.Error("no document has a file of upstreams")
	}
}

// Every file of the gateway in the documents is one that the server starts with.
func TestGatewayFilesOfTheDocumentsAreRight_Row91(t *testing.T) {
	found := 0
	for _, file := range e2e.Documents(t) {
		for _, b := range e2e.Blocks(t, file, "yaml") {
			if !strings.HasPrefix(b.Text, "servers:") {
				continue
			}
			found++
			environ := func(name string) (string, bool) { return "secret", strings.HasPrefix(name, "GITHUB_") }
			if _, err := gatewayconfig.Parse([]byte(b.Text), gatewayconfig.Options{Environ: environ}); err != nil {
				t.Errorf("%s: %v", b, err)
			}
		}
	}
	if found == 0 {
		t.Error("no document has a file of the gateway")
	}
}
