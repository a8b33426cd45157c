package corrosion

import (
	"fmt"

	"dnsd/registry"
)

// table has the key of each row of a subscription, for rows that change their key
// and for two rows that have the same key for a while; and the sum of each row, so
// that one whose content has not changed costs nothing. It holds no objects.
type table struct {
	rows map[uint64]tableRow
	held map[registry.Key]holder

	// keeps is set during a listing that may remove objects. A row that cannot be
	// used may then keep one, whose key only the registry has.
	keeps bool
}

type tableRow struct {
	key  registry.Key // not named: the row does not tell which object it is
	sum  uint64       // of its content
	kept bool         // the registry may have kept an object because of it
}

// holder is what is known of the rows of one key.
type holder struct {
	rows   int    // how many there are
	writer uint64 // the row whose content the feed had last
	sum    uint64 // of that content; 0: the feed had none, or a rejection since
	mixed  bool   // the rows differ in content
}

func newTable(keeps bool) *table {
	return &table{rows: map[uint64]tableRow{}, held: map[registry.Key]holder{}, keeps: keeps}
}

// apply takes an entry and appends to out what changes in the registry. The error
// is errLost if only a listing can tell.
func (t *table) apply(e *entry, out []registry.Item) ([]registry.Item, error) {
	old, known := t.rows[e.row]
	switch {
	case e.gone && !known:
		return out, nil
	case e.gone:
		delete(t.rows, e.row)
		return t.release(e.row, old, out)
	case e.item.Err != nil:
		return t.reject(e, old, known, out), nil
	}
	key := e.item.Object.Key()
	if h := t.held[key]; known && old.key == key && h.rows == 1 && h.sum == e.sum {
		return out, nil // no column that is read has changed
	}
	out, err := t.move(e, key, old, known, out)
	h := t.held[key]
	h.mixed = h.rows > 1 && (h.mixed || h.sum != e.sum)
	h.writer, h.sum = e.row, e.sum
	t.held[key] = h
	return append(out, e.item), err
}

// reject takes a row that cannot be used. If it was known it keeps its key,
// whatever its cells say now.
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
		h.sum = 0 // so that the next content is put, even if it is the same as before
		t.held[row.key] = h
	}
	return append(out, e.item)
}

// move gives a row the key.
func (t *table) move(e *entry, key registry.Key, old tableRow, known bool, out []registry.Item) ([]registry.Item, error) {
	t.rows[e.row] = tableRow{key: key, sum: e.sum}
	if known && old.key == key {
		return out, nil
	}
	t.hold(key)
	if !known {
		return out, nil
	}
	return t.release(e.row, old, out)
}

func (t *table) hold(key registry.Key) {
	h := t.held[key]
	h.rows++
	t.held[key] = h
}

// release takes a row's key from it. The object is deleted when no other row has
// the key.
func (t *table) release(id uint64, row tableRow, out []registry.Item) ([]registry.Item, error) {
	var err error
	if row.kept {
		err = fmt.Errorf("%w: a row for %s, which could not be used when it was listed, is mended or gone", errLost, row.key)
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

// other reports whether the feed has had another content for key than that of sum.
func (t *table) other(key registry.Key, sum uint64) bool {
	if t == nil {
		return false
	}
	h, ok := t.held[key]
	return ok && h.sum != 0 && h.sum != sum
}
