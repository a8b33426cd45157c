package registry

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

// Put returns the item that inserts or replaces o, with a note if a part of what
// its source says was left out.
func Put(o Object) Item {
	item := Item{Object: o}
	if m, ok := o.(*Machine); ok && m.omitted > 0 {
		item.Note = omission(m.omitted)
	}
	return item
}

// Delete returns the item that removes what key names. Deleting what is not
// there is no error.
func Delete(key Key) Item { return Item{Key: key} }

// Reject returns the item that reports an unusable object. The zero Key means
// that not even its name could be read.
func Reject(key Key, where string, err error) Item { return Item{Key: key, Err: err, Where: where} }

// About returns the identity of what the item is about.
func (i *Item) About() Key {
	if i.Object != nil {
		return i.Object.Key()
	}
	return i.Key
}
