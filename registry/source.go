package registry

import (
	"context"
)

// A Source streams the world into a feed: first everything, then every change.
// File, etcd and Corrosion are one each.
type Source interface {
	// Follow sends a complete listing and then every change after it. It
	// returns when ctx ends or the stream breaks, with the reason; it never
	// returns nil while ctx lives. When resume is true and the source still
	// knows where its last stream ended, it may send the changes since then
	// instead of a listing; when false it must list afresh.
	//
	// The follower calls Follow again, after a pause, for ever: a source does
	// not retry by itself. Calls never overlap. Whatever Follow started has
	// ended when it returns.
	Follow(ctx context.Context, feed Feed, resume bool) error

	// String returns the source for logs and for _dnsd.internal, without
	// secrets: "etcd://h1:2379/dnsd/v1/".
	String() string
}

// A Feed takes what a source reads. Its methods block while the registry is
// behind, which is the source's back-pressure, and return an error only when
// ctx has ended. The items belong to the feed afterwards; the slice stays the
// caller's. All methods may be called from one goroutine at a time.
type Feed interface {
	// List adds items to the listing under way, or begins one; of an object
	// listed twice the last one counts. A listing that is not completed before
	// Follow returns is dropped without a trace.
	List(ctx context.Context, items []Item) error

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

	// Change applies items, in order, as (part of) one transaction. A call
	// without items changes nothing and says that the source has just proven
	// to be alive and its stream complete up to now; so does every other call.
	Change(ctx context.Context, items []Item) error
}

// Item is one object as a source read it: the object; or its deletion; or the
// reason why it could not be used, in which case the version known before
// stays in the registry.
type Item struct {
	Object Object // the object; nil: deleted or rejected
	Key    Key    // of a deletion or rejection; ignored when Object is set
	Err    error  // why it is rejected; nil otherwise
	Note   error  // of an object: what of it could not be used, and is left out; nil for nothing
	Where  string // of a rejection or note: where the source read it, e.g. "line 12:8" or an etcd key
}

// Put returns the item that inserts or replaces o, with a note where o is not
// all that its source says of it.
func Put(o Object) Item {
	item := Item{Object: o}
	if m, ok := o.(*Machine); ok && m.omitted > 0 {
		item.Note = &note{omission(m.omitted)}
	}
	return item
}

// note is what an item's Note is: the object is there all the same.
type note struct{ error }

// Delete returns the item that removes what key names. Deleting what is not
// there is no error.
func Delete(key Key) Item { return Item{Key: key} }

// Reject returns the item that reports an unusable object. The zero Key means
// that not even its name could be read.
func Reject(key Key, where string, err error) Item { return Item{Key: key, Err: err, Where: where} }

// trouble returns why the object, or a part of it, could not be used.
func (i *Item) trouble() error {
	if i.Err != nil {
		return i.Err
	}
	return i.Note
}

// key returns the identity of what the item is about.
func (i *Item) key() Key {
	if i.Object != nil {
		return i.Object.Key()
	}
	return i.Key
}
