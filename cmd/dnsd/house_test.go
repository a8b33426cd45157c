package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// The limits of one thing that a person can hold in the head.
const (
	maxFileLines     = 500
	maxFunctionLines = 80
)

// arrows says which packages of this module a package may import. The resolver
// knows neither zones nor registry: it sees a Zone of a few methods. Tests are
// free.
var arrows = map[string][]string{
	"cmd/dnsd": {
		"cmd/dnsd/orders", "registry", "registry/contain", "registry/corrosion", "registry/etcd", "registry/file",
		"registry/follow", "registry/machinejson", "registry/regular", "registry/state", "resolver", "resolver/fastpath", "resolver/forward", "zones",
	},
	"cmd/dnsd/orders":                  {},
	"zones":                            {"registry", "resolver"},
	"registry":                         {},
	"registry/contain":                 {},
	"registry/regular":                 {},
	"registry/machinejson":             {"registry", "registry/contain"},
	"registry/follow":                  {"registry", "registry/contain", "registry/state"},
	"registry/state":                   {"registry", "registry/contain", "registry/machinejson", "registry/regular"},
	"registry/follow/followtest":       {"registry", "registry/follow"},
	"registry/file":                    {"registry", "registry/follow", "registry/machinejson", "registry/regular"},
	"registry/etcd":                    {"registry", "registry/contain", "registry/follow", "registry/machinejson", "registry/regular"},
	"registry/etcd/etcdtest":           {},
	"registry/etcd/etcdtest/member":    {},
	"registry/corrosion":               {"registry", "registry/contain", "registry/follow", "registry/regular"},
	"registry/corrosion/corrosiontest": {},
	"registry/registrytest":            {"registry"},
	"resolver":                         {"resolver/fastpath", "resolver/forward", "resolver/internal/turns", "resolver/internal/udpbatch", "resolver/internal/wire"},
	"resolver/fastpath":                {},
	"resolver/forward":                 {"resolver/internal/turns", "resolver/internal/wire"},
	"resolver/internal/turns":          {},
	"resolver/internal/udpbatch":       {},
	"resolver/internal/wire":           {},
}

// unwelcome are imports that stand for a habit this house does without.
var unwelcome = map[string]string{
	"log": "log/slog, injected",
	"github.com/prometheus/client_golang/prometheus/promauto": "a registerer that is injected",
}

// goFile is one parsed Go file of the module.
type goFile struct {
	path string // from the module's root, with slashes
	file *ast.File
	set  *token.FileSet
}

func (f goFile) pkg() string         { return path.Dir(f.path) }
func (f goFile) lines() int          { return f.set.File(f.file.FileStart).LineCount() }
func (f goFile) free() bool          { return top(f.pkg()) == "test" || top(f.pkg()) == "examples" }
func top(dir string) string          { first, _, _ := strings.Cut(dir, "/"); return first }
func line(f goFile, p token.Pos) int { return f.set.Position(p).Line }

// goFiles returns the module's Go files without its tests.
func goFiles(t *testing.T) []goFile {
	t.Helper()
	files, err := parsed()
	if err != nil || len(files) < 10 {
		t.Fatalf("%d Go files were found: %v", len(files), err)
	}
	return files
}

var parsed = sync.OnceValues(func() (files []goFile, err error) {
	const root = "../.."
	err = filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && name != root && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		files = append(files, goFile{filepath.ToSlash(rel), file, set})
		return err
	})
	return files, err
})

func TestArrowsRunOneWay(t *testing.T) {
	t.Parallel()
	for _, f := range goFiles(t) {
		allowed, known := arrows[f.pkg()]
		if f.free() {
			continue
		}
		if !known {
			t.Errorf("%s: say in arrows what package %s may import", f.path, f.pkg())
		}
		for _, spec := range f.file.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if instead, ok := unwelcome[name]; ok {
				t.Errorf("%s imports %s: use %s", f.path, name, instead)
			}
			if own, ok := strings.CutPrefix(name, "dnsd/"); ok && known && !slices.Contains(allowed, own) {
				t.Errorf("%s: package %s must not import %s", f.path, f.pkg(), own)
			}
		}
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	for _, f := range goFiles(t) {
		if f.free() {
			continue
		}
		if n := f.lines(); n > maxFileLines {
			t.Errorf("%s has %d lines: at most %d", f.path, n, maxFileLines)
		}
		for _, decl := range f.file.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := line(f, fn.End()) - line(f, fn.Pos()) + 1; n > maxFunctionLines {
				t.Errorf("%s: %s has %d lines: at most %d", f.path, fn.Name.Name, n, maxFunctionLines)
			}
			if fn.Name.Name == "init" && fn.Recv == nil {
				t.Errorf("%s: func init: let a caller do it", f.path)
			}
		}
	}
}

// Every package says what it is for, once, and everything exported says what it
// does.
func TestComments(t *testing.T) {
	t.Parallel()
	comments := map[string]int{}
	for _, f := range goFiles(t) {
		comments[f.pkg()] += 0
		if f.file.Doc != nil {
			comments[f.pkg()]++
		}
		shared, end := "", 0 // comment of a run of one-line functions, and where the last one ended
		for _, decl := range f.file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Doc != nil || line(f, d.Pos()) != end+1 {
					shared = d.Doc.Text()
				}
				end = line(f, d.End())
				visible := d.Name.IsExported() && (d.Recv == nil || exportedReceiver(d))
				if visible && d.Doc == nil && !strings.Contains(shared, d.Name.Name) {
					t.Errorf("%s:%d: %s has no comment", f.path, line(f, d.Pos()), d.Name.Name)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if s, ok := spec.(*ast.TypeSpec); ok && s.Name.IsExported() && d.Doc == nil && s.Doc == nil {
						t.Errorf("%s:%d: type %s has no comment", f.path, line(f, s.Pos()), s.Name.Name)
					}
				}
			}
		}
	}
	for pkg, n := range comments {
		if n != 1 {
			t.Errorf("package %s has %d package comments: want one", pkg, n)
		}
	}
}

// exportedReceiver reports whether a method's type can be seen from outside.
func exportedReceiver(d *ast.FuncDecl) bool {
	kind := d.Recv.List[0].Type
	if star, ok := kind.(*ast.StarExpr); ok {
		kind = star.X
	}
	if index, ok := kind.(*ast.IndexExpr); ok {
		kind = index.X
	}
	name, ok := kind.(*ast.Ident)
	return ok && name.IsExported()
}
