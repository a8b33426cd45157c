package main

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// change is one token of a file that is replaced.
type change struct {
	path string
	line int
	text string // the line, without its indentation
	what string // such as "< becomes <="

	source   []byte // the file
	from, to int    // the bytes that are replaced
	with     string
}

// apply returns the changed file.
func (c *change) apply() []byte {
	return slices.Concat(c.source[:c.from], []byte(c.with), c.source[c.to:])
}

// explained reports whether a list of known survivors has the change: a line for
// each, of its path, what it is, the text of its line and the reason, with tabs
// between them.
func (c *change) explained(list string) bool {
	for line := range strings.Lines(list) {
		f := strings.Split(strings.TrimRight(line, "\n"), "\t")
		if len(f) == 4 && f[0] == filepath.ToSlash(filepath.Clean(c.path)) && f[1] == c.what && f[2] == c.text && f[3] != "" {
			return true
		}
	}
	return false
}

// swaps are the operators and what takes their place.
var swaps = map[token.Token][]token.Token{
	token.EQL: {token.NEQ}, token.NEQ: {token.EQL},
	token.LSS: {token.LEQ, token.GEQ}, token.LEQ: {token.LSS, token.GTR},
	token.GTR: {token.GEQ, token.LEQ}, token.GEQ: {token.GTR, token.LSS},
	token.LAND: {token.LOR}, token.LOR: {token.LAND},
	token.ADD: {token.SUB}, token.SUB: {token.ADD}, token.MUL: {token.QUO}, token.QUO: {token.MUL},
	token.AND: {token.OR}, token.OR: {token.AND}, token.SHL: {token.SHR}, token.SHR: {token.SHL},
	token.ADD_ASSIGN: {token.SUB_ASSIGN}, token.SUB_ASSIGN: {token.ADD_ASSIGN},
	token.INC: {token.DEC}, token.DEC: {token.INC},
	token.BREAK: {token.CONTINUE}, token.CONTINUE: {token.BREAK},
}

// changesOf returns all changes of a package, or of one of its files.
func changesOf(dir, only string) ([]change, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	var all []change
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") || only != "" && filepath.Base(path) != only {
			continue
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		found, err := changesIn(path, source)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// changesIn returns the changes of one file.
func changesIn(path string, source []byte) (all []change, err error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, source, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	add := func(pos token.Pos, old, with string) {
		at := set.Position(pos)
		what := old + " becomes " + with
		if with == "" {
			what = old + " is left out"
		}
		all = append(all, change{
			path: path, line: at.Line, text: lineAt(source, at.Offset), what: what,
			source: source, from: at.Offset, to: at.Offset + len(old), with: with,
		})
	}
	operator := func(pos token.Pos, op token.Token) {
		for _, other := range swaps[op] {
			add(pos, op.String(), other.String())
		}
	}
	visit := func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			return false
		case *ast.BinaryExpr:
			operator(n.OpPos, n.Op)
		case *ast.UnaryExpr:
			if n.Op == token.NOT {
				add(n.OpPos, "!", "")
			}
		case *ast.AssignStmt:
			operator(n.TokPos, n.Tok)
		case *ast.IncDecStmt:
			operator(n.TokPos, n.Tok)
		case *ast.BranchStmt:
			if n.Label == nil {
				operator(n.TokPos, n.Tok)
			}
		case *ast.Ident:
			switch n.Name {
			case "true":
				add(n.Pos(), "true", "false")
			case "false":
				add(n.Pos(), "false", "true")
			}
		case *ast.BasicLit:
			if n.Kind == token.INT {
				if v, err := strconv.ParseInt(n.Value, 0, 64); err == nil {
					add(n.Pos(), n.Value, strconv.FormatInt(v+1, 10))
				}
			}
		case *ast.ExprStmt, *ast.DeferStmt:
			// A call that is left out; on one line, so that what follows stays where it is.
			from, to := set.Position(n.Pos()).Offset, set.Position(n.End()).Offset
			if call := string(source[from:to]); !strings.Contains(call, "\n") {
				add(n.Pos(), call, "")
			}
		}
		return true
	}
	ast.Inspect(file, visit)
	return all, nil
}

// lineAt returns the line of an offset, without the space around it.
func lineAt(source []byte, offset int) string {
	from := bytes.LastIndexByte(source[:offset], '\n') + 1
	to := len(source)
	if i := bytes.IndexByte(source[offset:], '\n'); i >= 0 {
		to = offset + i
	}
	return string(bytes.TrimSpace(source[from:to]))
}
