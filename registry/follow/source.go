// Package follow keeps a registry current from one source: it follows the
// source again when that breaks off, batches what comes, guards against listings
// that take away most of what answers hold, measures how old everything is, and
// keeps the last known state on disk.
package follow

import (
	"context"

	"dnsd/registry"
)

// A Source streams the world into a feed: first everything, then every change.
// File, etcd and Corrosion are one each. Package followtest holds a source to what
// is said here and at Feed.
type Source interface {
	// Follow sends a complete listing and then every change after it, or complete
	// listings alone, as a file does. Of changes that follow each other quickly it
	// may send the last; an object never goes back to what it was before. What is
	// written while it lists is not lost, and comes later if it is not listed. An
	// object that cannot be used is a rejection, and costs no other. While nothing
	// changes it calls Change without items, as long as the world is well.
	//
	// Follow returns when ctx ends or the stream breaks, with the reason; it never
	// returns nil. It waits for no time-out when ctx ends. A source whose world has
	// no stream that could break may wait for it, as for a file that is not there,
	// and calls nothing meanwhile.
	//
	// When resume is true and the source still knows where the registry stands, it
	// may send the changes since then instead of a listing; when false it must list
	// afresh. The follower may ask to resume behind a listing that broke off, or a
	// call of feed that failed: it is for the source to know that it cannot.
	//
	// The follower calls Follow again, after a pause, for ever: a source does
	// not retry by itself. Calls never overlap. Whatever Follow started has
	// ended when it returns.
	Follow(ctx context.Context, feed Feed, resume bool) error

	// String returns the source for logs and for _dnsd.internal, without
	// secrets: "etcd://h1:2379/dnsd/v1/". It is the same for the source's life.
	String() string
}

// A Feed takes what a source reads. Its methods block while the registry is
// behind, which is the source's back-pressure and no silence of the world, and
// return an error only when ctx, which is that of Follow or ends with it, has
// ended. Whether the registry took the items of a call that failed is not known.
// The objects belong to the feed afterwards; the slice stays the caller's. All
// methods may be called from one goroutine at a time, and none after Follow has
// returned.
type Feed interface {
	// List adds objects, and rejections of such, to the listing under way, or
	// begins one; of an object listed twice the last one counts. A deletion has
	// no place in a listing and is rejected. A listing that is not completed
	// before Follow returns is dropped without a trace.
	List(ctx context.Context, items []registry.Item) error

	// Listed completes the listing: what it held is applied as one transaction,
	// and what it lacked is removed, subject to the sweep guard. It returns when
	// that has happened.
	//
	// A source that has reason to think that it may not have been told
	// everything says so: doubt is a sentence for the log and for /readyz, such
	// as "the agent has gaps in what it knows", and empty for a listing that is
	// whole. What a listing in doubt has is applied as ever; what it lacks stays,
	// however little it is, until a listing without doubt decides on it by the
	// ordinary rules, or SIGUSR1. A registry that was listing or cached before
	// remains so, because nobody may be told yet that a name does not exist. The
	// source lists again, by List and Listed or by returning, when its doubt has
	// gone: the follower does not ask for that, and resumes no stream behind a
	// listing in doubt.
	Listed(ctx context.Context, doubt string) error

	// Change applies items, in order, as (part of) one transaction. In a Follow that
	// does not resume, none with items comes before the first List. While a
	// listing is under way they are applied after it, in the same transaction,
	// whatever it says of them; with a listing that is dropped they are dropped,
	// too. A call without items changes nothing. Every call says that the source
	// is alive, and counts as having heard of it.
	Change(ctx context.Context, items []registry.Item) error
}
