package corrosion

import (
	"fmt"

	"dnsd/registry"
)

// table knows which key each row of a subscription stands for, so that a
// change of a row that changes its key, and the end of one row of two that
// have the same key for a while, come out right. It holds no objects.
type table struct {
	rows map[uint64]registry.Key
	held map[registry.Key]holder
}

// holder is how a key is held.
type holder struct {
	rows   int    // how many rows stand for the key
	writer uint64 // the row whose content the feed had last
	sum    uint64 // of that content; 0: the feed had none
	mixed  bool   // the rows have not all the same content
}

func newTable() *table {
	return &table{rows: map[uint64]registry.Key{}, held: map[registry.Key]holder{}}
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
		if known && !named(e.item.Key) { // still the row that it was, as far as one can see
			e.item.Key = old
		}
		if e.item.Key.Name == "" {
			return append(out, e.item), nil
		}
		out, err := t.move(e.row, e.item.Key, out)
		return append(out, e.item), err
	}
	key := e.item.Object.Key()
	out, err := t.move(e.row, key, out)
	h := t.held[key]
	h.mixed = h.rows > 1 && (h.mixed || h.sum != e.sum)
	h.writer, h.sum = e.row, e.sum
	t.held[key] = h
	return append(out, e.item), err
}

// move makes row stand for key.
func (t *table) move(row uint64, key registry.Key, out []registry.Item) ([]registry.Item, error) {
	old, known := t.rows[row]
	if known && old == key {
		return out, nil
	}
	t.rows[row] = key
	h := t.held[key]
	h.rows++
	t.held[key] = h
	if !known {
		return out, nil
	}
	return t.release(row, old, out)
}

// release takes note that row no longer stands for key. The key's object is
// deleted when no other row does.
func (t *table) release(row uint64, key registry.Key, out []registry.Item) ([]registry.Item, error) {
	h := t.held[key]
	h.rows--
	if h.rows > 0 {
		lost := h.mixed && h.writer == row
		h.mixed = h.mixed && h.rows > 1
		t.held[key] = h
		if lost {
			return out, fmt.Errorf("%w: of several rows for %s, the last one written is gone", errLost, key)
		}
		return out, nil
	}
	delete(t.held, key)
	if !named(key) {
		return out, fmt.Errorf("%w: a row for %s, whose network could not be read, is mended or gone", errLost, key)
	}
	return append(out, registry.Delete(key)), nil
}

// other reports whether the feed has had a content for key that is not sum.
func (t *table) other(key registry.Key, sum uint64) bool {
	if t == nil {
		return false
	}
	h, ok := t.held[key]
	return ok && h.sum != 0 && h.sum != sum
}
