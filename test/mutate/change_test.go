package main

import (
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
)

const before = `package p

import "fmt"

func f(a, b int) bool {
	for i := 0; i < 10; i++ {
		if a == b && !g() {
			continue
		}
		a += 0x10
		defer fmt.Println(a)
	}
	return true
}
`

func TestChanges(t *testing.T) {
	changes, err := changesIn("p.go", []byte(before))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range changes {
		got = append(got, c.what)
		after := c.apply()
		if _, err := parser.ParseFile(token.NewFileSet(), "p.go", after, 0); err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		if string(after) == before || !strings.Contains(c.text, strings.Fields(c.what)[0]) {
			t.Errorf("%s, of the line %q:\n%s", c.what, c.text, after)
		}
	}
	want := []string{
		"0 becomes 1", "< becomes <=", "< becomes >=", "10 becomes 11", "++ becomes --", "== becomes !=", "&& becomes ||",
		"! is left out", "continue becomes break", "+= becomes -=", "0x10 becomes 17", "defer fmt.Println(a) is left out", "true becomes false",
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
}

func TestExplained(t *testing.T) {
	c := change{path: "./zones/name.go", what: "< becomes <=", text: "if a < b {"}
	const line = "zones/name.go\t< becomes <=\tif a < b {\tequal ones are sorted out before\n"
	if !c.explained("# a comment\n"+line) || c.explained(strings.Replace(line, "<=", ">=", 1)) || c.explained("zones/name.go\t< becomes <=\tif a < b {\t\n") {
		t.Error("what is explained is not told from what is not")
	}
	for i, l := range strings.Split(strings.TrimSpace(explained), "\n") {
		if !strings.HasPrefix(l, "#") && strings.Count(l, "\t") != 3 {
			t.Errorf("explained.txt, line %d: %q", i+1, l)
		}
	}
}
