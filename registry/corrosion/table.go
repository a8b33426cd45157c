package corrosion

import (
	"fmt"

	"dnsd/registry"
)

// table knows which key each row of a subscription stands for, so that a
// change of a row that changes its key, and the end of one row of two that
// have the same key for a while, come out right; and what each row's content
// was, so that a row that says nothing new costs nothing. It holds no objects.
type table struct {
	rows map[uint64]tableRow
	held map[registry.Key]holder

	// keeps is set during a listing that may remove: because of a row that
	// cannot be used it may then keep an object, under a key that only the
	// registry knows.
	keeps bool
}

type tableRow struct {
	key  registry.Key // not named: which object it is cannot be told
	sum  uint64       // of its content
	kept bool         // the registry may have kept an object because of it
}

// holder is how a key is held.
type holder struct {
	rows   int    // how many rows stand for the key
	writer uint64 // the row whose content the feed had last
	sum    uint64 // of that content; 0: the feed had none, or a rejection since
	mixed  bool   // the rows have not all the same content
}

func newTable(keeps bool) *table {
	return &table{rows: map[uint64]tableRow{}, held: map[registry.Key]holder{}, keeps: keeps}
}

// apply takes an entry and appends to out what it means for the registry. An
// error that is errLost says that only a listing can tell.
func (t *table) apply(e *entry, out []registry.Item) ([]registry.Item, error) {
	old, known := t.rows[e.row]
	switch {
	case e.gone && !known: // nothing was ever known of it
		return out, nil
	case e.gone:
		delete(t.rows, e.row)
		return t.release(e.row, old, out)
	case e.item.Err != nil:
		return t.reject(e, old, known, out), nil
	}
	key := e.item.Object.Key()
	if h := t.held[key]; known && old.key == key && h.rows == 1 && h.writer == e.row && h.sum == e.sum {
		return out, nil // nothing that is read here has changed
	}
	out, err := t.move(e, key, old, known, out)
	h := t.held[key]
	h.mixed = h.rows > 1 && (h.mixed || h.sum != e.sum)
	h.writer, h.sum = e.row, e.sum
	t.held[key] = h
	return append(out, e.item), err
}

// reject takes a row that cannot be used. One that was known stands for what it
// stood for, whatever its cells say now: it is still the same row.
func (t *table) reject(e *entry, old tableRow, known bool, out []registry.Item) []registry.Item {
	row := tableRow{key: old.key, sum: e.sum, kept: old.kept}
	switch {
	case !known:
		row.key = e.item.Key
		row.kept = t.keeps && !named(row.key) && (row.key.Name != "" || row.key.ID != "")
		if named(row.key) {
			t.hold(row.key)
		}
	case old.key.Name != "" || old.key.ID != "":
		e.item.Key = old.key
	}
	t.rows[e.row] = row
	if h, ok := t.held[row.key]; ok && h.writer == e.row {
		h.sum = 0 // what comes next is news, even if it is what was there before
		t.held[row.key] = h
	}
	return append(out, e.item)
}

// move makes a row stand for key.
func (t *table) move(e *entry, key registry.Key, old tableRow, known bool, out []registry.Item) ([]registry.Item, error) {
	t.rows[e.row] = tableRow{key: key, sum: e.sum}
	switch {
	case !known:
		t.hold(key)
		return out, nil
	case old.key == key:
		return out, nil
	}
	t.hold(key)
	return t.release(e.row, old, out)
}

func (t *table) hold(key registry.Key) {
	h := t.held[key]
	h.rows++
	t.held[key] = h
}

// release takes note that a row no longer stands for what it stood for. The
// key's object is deleted when no other row stands for it.
func (t *table) release(id uint64, row tableRow, out []registry.Item) ([]registry.Item, error) {
	var err error
	if row.kept {
		err = lost(row.key)
	}
	if !named(row.key) {
		return out, err
	}
	h := t.held[row.key]
	h.rows--
	if h.rows > 0 {
		if h.mixed && h.writer == id {
			err = fmt.Errorf("%w: of several rows for %s, the last one written is gone", errLost, row.key)
		}
		h.mixed = h.mixed && h.rows > 1
		t.held[row.key] = h
		return out, err
	}
	delete(t.held, row.key)
	return append(out, registry.Delete(row.key)), err
}

// lost says that what the registry kept because of a row can only be told by a
// listing, now that the row is mended or gone.
func lost(key registry.Key) error {
	return fmt.Errorf("%w: a row for %s, which could not be used when it was listed, is mended or gone", errLost, key)
}

// other reports whether the feed has had a content for key that is not sum.
func (t *table) other(key registry.Key, sum uint64) bool {
	if t == nil {
		return false
	}
	h, ok := t.held[key]
	return ok && h.sum != 0 && h.sum != sum
}
