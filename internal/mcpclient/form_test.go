package mcpclient

import (
	"html"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func formsOf(page string) []form {
	forms, _ := readPage(page)
	return forms
}

func TestLoginAndConsentFormsAreFilledIn(t *testing.T) {
	const login = `<form method="post" action="/login"><input type="hidden" name="state" value="a&amp;b&quot;"><input id=u name=username value=old><input name="password" type="password"><button>Go</button></form>`
	const consent = `<form method=post action='/consent'><input type=hidden name=state value=s><button name="decision" value="deny">No</button><button name="decision" value="approve">Yes</button></form>`
	const key = `<form method=post action="/connect"><input type=hidden name=connection value=c><input type=password name=key><button name="decision" value="connect">Go</button></form>`
	const later = `<form method=post action="/connect"><input type=hidden name=state value=s><button name="decision" value="later">Later</button></form>`
	signIn := url.Values{"state": {`a&b"`}, "username": {"alice"}, "password": {"cows"}}
	approve := url.Values{"state": {"s"}, "decision": {"approve"}}
	for _, c := range []struct {
		what, page, action string
		want               url.Values
	}{
		{"login", login, "/login", signIn},
		{"consent", consent, "/consent", approve},
		{"a key, which is not the password", key + later, "/connect", url.Values{"state": {"s"}, "decision": {"later"}}},
		{"consent before later", later + consent, "/consent", approve},
		{"login first", consent + login, "/login", signIn},
		{"upper case", `<FORM METHOD=POST ACTION="/x"><INPUT TYPE=PASSWORD NAME=pw></FORM>`, "/x", url.Values{"pw": {"cows"}}},
		{"in a comment", `<!-- <form action="/evil"><input type=password name=p> -->` + login, "/login", signIn},
		{"in a script", `<script>var a = '<form action="/evil"><input type=password name=p>'</script>` + login, "/login", signIn},
		{"outside a form", `<input type=hidden name=x value=y>` + consent + `<input type=hidden name=z value=y>`, "/consent", approve},
		{"first attribute counts", `<form action="/a" action="/b"><input type=password name=p name=q></form>`, "/a", url.Values{"p": {"cows"}}},
		{"boxes", `<form action=/a><input type=password name=p><input type=checkbox name=c1 value=1><input type=checkbox name=c2 value=1 checked></form>`, "/a", url.Values{"p": {"cows"}, "c2": {"1"}}},
		{"without scripts", `<noscript>` + login + `</noscript>`, "/login", signIn},
		{"in a template", `<template><form action="/evil"><input type=password name=p></form></template>` + login, "/login", signIn},
		{"in a form", `<form action="/a"><form action="/b"><input type=password name=p></form>`, "/a", url.Values{"p": {"cows"}}},
		{"in a table", `<table><form action="/a"><tr><td><input type=password name=p></table>`, "/a", url.Values{"p": {"cows"}}},
		{"greater in a value", `<form action="/a?x>y"><input type=password name=p></form>`, "/a?x>y", url.Values{"p": {"cows"}}},
	} {
		f, _ := chooseForm(formsOf("<!DOCTYPE html><html><body a<b>" + c.page))
		if f == nil {
			t.Errorf("%s: no form", c.what)
			continue
		}
		if diff := cmp.Diff(c.want, f.fill("alice", "cows")); diff != "" || f.action != c.action {
			t.Errorf("%s: action %q, want %q (-want +got):\n%s", c.what, f.action, c.action, diff)
		}
	}
	for _, page := range []string{"", "<", "</form>", "<form", "<form>", "<input type=password>", "<form><input type=hidden name=a>", "<script><form><input type=password name=p>", "<!--<form>", key} {
		if f, _ := chooseForm(formsOf(page)); f != nil {
			t.Errorf("%q has the form %+v", page, f)
		}
	}
}

func TestPageTitle(t *testing.T) {
	for page, want := range map[string]string{"<title>A &amp; B</title>": "A & B", "<TITLE>x<b></TITLE>": "x<b>", "<title></title>": "", "<title>": "", "title": ""} {
		if _, title := readPage(page); title != want {
			t.Errorf("%q has the title %q, want %q", page, title, want)
		}
	}
}

// A field's value survives being written into a page, whatever else the page has.
func FuzzForms(f *testing.F) {
	f.Add("state", `a&b"<>'`, "<p class=x>")
	f.Add("x", "", "<!-- <form> -->")
	f.Add("x", "</form>", "<a b='>'>")
	f.Add("x", "y", "<script>")
	f.Add("x\x00", "\r\n\x00\r", "<template>")
	f.Fuzz(func(t *testing.T, name, value, before string) {
		escape := func(s string) string { return strings.ReplaceAll(html.EscapeString(s), "\r", "&#13;") } // a bare one ends a line, as "\n" does
		field := `<form method="post" action="/login"><input type="hidden" name="` + escape(name) + `" value="` + escape(value) + `"><input type="password" name="p"></form>`
		readPage(before + field) // must end
		forms, _ := readPage(field)
		if len(forms) != 1 || len(forms[0].inputs) != 2 {
			t.Fatalf("%q has the forms %+v", field, forms)
		}
		in := forms[0].inputs[0]
		sent := func(s string) string { return strings.ReplaceAll(s, "\x00", "\ufffd") } // HTML has no NUL
		if in.name != sent(name) || in.value != sent(value) {
			t.Errorf("%q = %q came out as %q = %q", name, value, in.name, in.value)
		}
	})
}
