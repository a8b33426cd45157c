package main

import (
	"cmp"
	"context"
	"time"

	"dnsd/registry"
)

// emptyText says at /readyz what an empty registry is. It is legal, so dnsd is
// ready; but much more often the prefix or the file is not the one that was meant.
const emptyText = "the registry is empty: its source holds no object, so no app, machine or peer has a name"

// besideWithin bounds the search for what lies beside an empty place.
const besideWithin = 10 * time.Second

// warnEmpty waits for the first listing, and warns if that holds no object at all.
func (d *daemon) warnEmpty(ctx context.Context) error {
	for {
		s := d.reg.Status()
		if s.State != registry.Listing && s.State != registry.Cached {
			break
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.Changed():
		}
	}
	if !d.reg.Empty() {
		return nil
	}
	beside := ""
	if source, ok := d.source.(neighbourly); ok {
		ctx, cancel := context.WithTimeout(ctx, besideWithin)
		defer cancel()
		beside = source.Beside(ctx)
	}
	d.log.Warn("the registry is empty: its source lists no object at all, so every internal name is NXDOMAIN; is it the right place?",
		"source", d.source, "beside", cmp.Or(beside, "nothing that dnsd may see"))
	return nil
}
