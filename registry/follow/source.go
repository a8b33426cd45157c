// Package follow keeps a registry current from one source: it follows the
// source again when that breaks off, batches what comes, guards against listings
// that take away most of what answers hold, measures how old everything is, and
// keeps the last known state on disk.
package follow

import (
	"context"

	"dnsd/registry"
)

// A Source sends what exists into a feed: first everything, then every change.
// The file, etcd and Corrosion are one each. Package followtest checks a source
// against what is said here and at Feed.
type Source interface {
	// Follow sends a complete listing and then every change after it, or complete
	// listings alone, as a file does. Of several quick changes of an object it may
	// send only the last, and never an older version after a newer one, but in a listing,
	// over which changes win. What is written while it lists is part of the listing, or
	// comes beside it or after it. An object
	// that cannot be used is sent as a rejection, and costs no other. While nothing
	// changes and all is well it calls Change without items.
	//
	// Follow returns when ctx ends or the stream breaks, with the reason; it never
	// returns nil. It waits for no time-out when ctx ends. A source without a
	// stream may wait instead of returning, as for a file that does not exist, and
	// calls nothing meanwhile.
	//
	// When resume is true and the source still knows what it has sent, it may send
	// the changes since then instead of a listing; when false it must list. The
	// follower may ask to resume after a listing that broke off or a call of feed
	// that failed: the source itself must know when it cannot.
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
// behind, which a source must not take for silence, and return an error only when
// ctx, which is that of Follow or ends with it, has ended. Whether the registry
// took the items of a call that failed is not known.
// The objects belong to the feed afterwards; the slice stays the caller's. All
// methods may be called from one goroutine at a time, and none after Follow has
// returned.
type Feed interface {
	// List adds objects and rejections to the listing under way, or begins one; of
	// an object listed twice the last one counts. A deletion is rejected. A listing
	// that is not completed before Follow returns is dropped.
	List(ctx context.Context, items []registry.Item) error

	// Listed completes the listing: what it held is applied as one transaction,
	// and what it lacked is removed, subject to the sweep guard, but for objects
	// that changes have decided on since it began. It returns when that has happened.
	//
	// A source that may not have been told everything says so: doubt is a
	// sentence for the log and for /readyz, such as "the agent has gaps in what it
	// knows", and empty for a listing that is whole. What a listing in doubt has is
	// applied as usual; what it lacks stays, however little it is, until a listing
	// without doubt decides on it by the ordinary rules, or SIGUSR1. A registry in
	// state listing or cached remains so, because no client may be told yet that a
	// name does not exist. When its doubt has gone the source lists again, by List
	// and Listed or by returning: the follower does not ask for that, and resumes no
	// stream after a listing in doubt.
	Listed(ctx context.Context, doubt string) error

	// Change applies items, in order, as (part of) one transaction. In a Follow that
	// does not resume, no call with items comes before the first List. While a
	// listing is under way they are applied as at any other time, and win over it:
	// neither what it has nor what it lacks decides on their objects any more. A
	// rejection keeps its object from being removed by it. So a source that has
	// everything to list may go on with its stream meanwhile. A call
	// without items changes nothing. Every call says that the source is alive.
	Change(ctx context.Context, items []registry.Item) error

	// Reached says that all changes up to the revision at have been sent, and that
	// the source has the revision head, which is no less. Both only rise, unless
	// the source's history is another one. Zero for at says that changes are missing
	// which only a listing will bring: what later calls say is reached when that is
	// complete. In a Follow that resumes a call comes before any other, with what the
	// source had then: until that is reached a registry that was stale is not live. A
	// source without revisions never calls it.
	Reached(ctx context.Context, at, head int64) error
}
