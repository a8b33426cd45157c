// Package rig lets a program that is no test use what tests use.
package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Rig is as much of testing.TB as the etcd of the tests wants. A failure leaves by a
// panic that Rescue turns into an error. Not safe for concurrent use.
type Rig struct {
	testing.TB // nil: what is not listed below is not called

	ctx      context.Context
	dir      string
	dirs     int
	cleanups []func()
}

// New returns a rig whose files go into dir. The caller closes it.
func New(ctx context.Context, dir string) *Rig { return &Rig{ctx: ctx, dir: dir} }

type failure struct{ err error }

// Helper, Failed, Context, Cleanup, Fatal and Fatalf are those of testing.TB.
func (r *Rig) Helper()                   {}
func (r *Rig) Failed() bool              { return false }
func (r *Rig) Context() context.Context  { return r.ctx }
func (r *Rig) Cleanup(fn func())         { r.cleanups = append(r.cleanups, fn) }
func (r *Rig) Fatal(args ...any)         { panic(failure{errors.New(fmt.Sprint(args...))}) }
func (r *Rig) Fatalf(f string, a ...any) { panic(failure{fmt.Errorf(f, a...)}) }

// TempDir returns a new directory.
func (r *Rig) TempDir() string {
	r.dirs++
	dir := filepath.Join(r.dir, fmt.Sprintf("rig-%d", r.dirs))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		r.Fatal(err)
	}
	return dir
}

// Rescue, deferred, sets err where a failure has left by a panic.
func (r *Rig) Rescue(err *error) {
	switch p := recover().(type) {
	case nil:
	case failure:
		*err = p.err
	default:
		panic(p)
	}
}

// Close does what Cleanup was given, the last first.
func (r *Rig) Close() {
	for len(r.cleanups) > 0 {
		last := len(r.cleanups) - 1
		r.cleanups[last]()
		r.cleanups = r.cleanups[:last]
	}
}
