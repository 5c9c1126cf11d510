package cli

import (
	"html"
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFillForms(t *testing.T) {
	const login = `<form method="post" action="/login"><input type="hidden" name="state" value="a&amp;b&quot;"><input id=u name=username value=old><input name="password" type="password"><button>Go</button></form>`
	const consent = `<form method=post action='/consent'><input type=hidden name=state value=s><button name="decision" value="deny">No</button><button name="decision" value="approve">Yes</button></form>`
	signIn := url.Values{"state": {`a&b"`}, "username": {"alice"}, "password": {"cows"}}
	approve := url.Values{"state": {"s"}, "decision": {"approve"}}
	for _, c := range []struct {
		what, page, action string
		want               url.Values
	}{
		{"login", login, "/login", signIn},
		{"consent", consent, "/consent", approve},
		{"login first", consent + login, "/login", signIn},
		{"upper case", `<FORM METHOD=POST ACTION="/x"><INPUT TYPE=PASSWORD NAME=pw></FORM>`, "/x", url.Values{"pw": {"cows"}}},
		{"in a comment", `<!-- <form action="/evil"><input type=password name=p> -->` + login, "/login", signIn},
		{"in a script", `<script>var a = '<form action="/evil"><input type=password name=p>'</script>` + login, "/login", signIn},
		{"outside a form", `<input type=hidden name=x value=y>` + consent + `<input type=hidden name=z value=y>`, "/consent", approve},
		{"first attribute counts", `<form action="/a" action="/b"><input type=password name=p name=q></form>`, "/a", url.Values{"p": {"cows"}}},
		{"boxes", `<form action=/a><input type=password name=p><input type=checkbox name=c1 value=1><input type=checkbox name=c2 value=1 checked></form>`, "/a", url.Values{"p": {"cows"}, "c2": {"1"}}},
		{"greater in a value", `<form action="/a?x>y"><input type=password name=p></form>`, "/a?x>y", url.Values{"p": {"cows"}}},
	} {
		f, _ := chooseForm(parseForms("<!DOCTYPE html><html><body a<b>" + c.page))
		if f == nil {
			t.Errorf("%s: no form", c.what)
			continue
		}
		if diff := cmp.Diff(c.want, f.fill("alice", "cows")); diff != "" || f.action != c.action {
			t.Errorf("%s: action %q, want %q (-want +got):\n%s", c.what, f.action, c.action, diff)
		}
	}
	for _, page := range []string{"", "<", "</form>", "<form", "<form>", "<input type=password>", "<form><input type=hidden name=a>", "<script><form><input type=password name=p>", "<!--<form>"} {
		if f, _ := chooseForm(parseForms(page)); f != nil {
			t.Errorf("%q has the form %+v", page, f)
		}
	}
}

// A field's value survives being written into a page, whatever the page has besides.
func FuzzForms(f *testing.F) {
	f.Add("state", `a&b"<>'`, "<p class=x>")
	f.Add("x", "", "<!-- <form> -->")
	f.Add("x", "</form>", "<a b='>'>")
	f.Add("x", "y", "<script>")
	f.Fuzz(func(t *testing.T, name, value, before string) {
		field := `<form method="post" action="/login"><input type="hidden" name="` + html.EscapeString(name) + `" value="` + html.EscapeString(value) + `"><input type="password" name="p"></form>`
		parseForms(before + field) // whatever that is
		forms := parseForms(field)
		if len(forms) != 1 || len(forms[0].inputs) != 2 {
			t.Fatalf("%q has the forms %+v", field, forms)
		}
		in := forms[0].inputs[0]
		if unescaped := html.UnescapeString(html.EscapeString(name)); in.name != unescaped || in.value != html.UnescapeString(html.EscapeString(value)) {
			t.Errorf("%q = %q came out as %q = %q", name, value, in.name, in.value)
		}
	})
}
