package corrosiontest

import (
	"fmt"
	"maps"
	"math"
	"slices"
)

// Row is a row of a table. Values are string, integers, bool, []byte or nil; a
// column that is not named is the empty string.
type Row map[string]any

// table is one table, as it is in the cluster and as this agent has it.
type table struct {
	key     []string
	columns []string // key included
	truth   map[string]Row
	records map[string]*record
}

// record is a row as the agent has it, merged column by column from the versions
// that it has applied, as cr-sqlite does.
type record struct {
	values []any // of the table's columns
	at     []int // the version that wrote each; -1: none
	life   int   // the version that inserted or deleted it; -1: not known
	alive  bool
}

// version is what one transaction wrote somewhere in the cluster.
type version struct {
	site   string
	n      uint64 // of that site, from 1 on
	writes []write
	gone   bool // nobody has it any more
}

// write is what a version wrote of one row.
type write struct {
	table, id string
	row       Row      // after the write; of a deleted row its key
	columns   []string // that were written
	life      bool     // the row was inserted or deleted
	deleted   bool
}

// database is the agent's, with the history of its cluster. Guarded by the agent's
// mu.
type database struct {
	tables  map[string]*table
	history []version // of the cluster, oldest first
	applied []bool    // which of them this agent has
	site    string    // this agent's own, a new one for every database
	sites   int
	newest  map[string]uint64 // version by site, in the cluster
	heads   map[string]uint64 // and in this database
	members int               // other agents that this one sees
	down    int               // other agents that it no longer sees
	lagging bool              // a version of another agent has been applied lately
	apart   bool              // cut off from the others
}

// CreateTable makes an empty table and replaces one of that name.
func (a *Agent) CreateTable(name string, key []string, columns ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.db.tables[name] = &table{key: key, columns: slices.Concat(key, columns), truth: map[string]Row{}, records: map[string]*record{}}
}

// identity returns a row's key as a string.
func (t *table) identity(row Row) string {
	parts := make([]any, len(t.key))
	for i, name := range t.key {
		parts[i] = row[name]
	}
	return fmt.Sprintf("%q", parts)
}

// Put inserts rows, or replaces those with the same key, in one transaction of
// another agent of the cluster, or of this one if it is alone.
func (a *Agent) Put(name string, rows ...Row) { a.write(name, rows, false) }

// Delete deletes the rows that have the same key as those given.
func (a *Agent) Delete(name string, rows ...Row) { a.write(name, rows, true) }

func (a *Agent) write(name string, rows []Row, deleted bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	db, t := &a.db, a.db.tables[name]
	v := version{site: db.site}
	if a.opts.Members > 0 {
		v.site = "AAAA"
	}
	for _, row := range rows {
		id := t.identity(row)
		old, known := t.truth[id]
		w := write{table: name, id: id, row: row, deleted: deleted, life: deleted || !known}
		switch {
		case deleted && !known:
			continue
		case deleted:
			delete(t.truth, id)
		default:
			t.truth[id] = maps.Clone(row)
			w.row, w.columns = t.truth[id], t.changed(old, row)
			if known && len(w.columns) == 0 {
				continue
			}
		}
		v.writes = append(v.writes, w)
	}
	if len(v.writes) == 0 {
		return
	}
	db.newest[v.site]++
	v.n = db.newest[v.site]
	db.history, db.applied = append(db.history, v), append(db.applied, false)
	if !db.apart {
		a.apply(len(db.history) - 1)
	}
	a.faults.skip = 0
}

// changed returns the columns that writing row in place of old writes. An
// insert writes all of them, whichever its statement names.
func (t *table) changed(old, row Row) []string {
	all := t.columns[len(t.key):]
	if old == nil {
		return all
	}
	var columns []string
	for _, name := range all {
		if encode(value(old, name)) != encode(value(row, name)) {
			columns = append(columns, name)
		}
	}
	return columns
}

func value(row Row, column string) any {
	if v, ok := row[column]; ok {
		return v
	}
	return ""
}

// apply brings version i into the database and tells the subscriptions that
// match what it wrote.
func (a *Agent) apply(i int) {
	db := &a.db
	if db.applied[i] {
		return
	}
	v := &db.history[i]
	db.applied[i] = true
	db.heads[v.site] = max(db.heads[v.site], v.n)
	db.lagging = db.lagging || v.site != db.site
	for j := range v.writes {
		w := &v.writes[j]
		t := db.tables[w.table]
		r := t.records[w.id]
		if r == nil {
			r = &record{values: make([]any, len(t.columns)), at: make([]int, len(t.columns)), life: -1}
			for c, name := range t.columns {
				r.at[c], r.values[c] = -1, ""
				if c < len(t.key) {
					r.values[c] = value(w.row, name)
				}
			}
			t.records[w.id] = r
		}
		r.merge(t, w, i)
		a.touch(t, w, r)
	}
}

// merge brings what version i wrote into a record: of each column the newest
// one wins, whichever comes first.
func (r *record) merge(t *table, w *write, i int) {
	if i >= r.life {
		r.alive = !w.deleted
		if w.life {
			r.life = i
		}
	}
	for _, name := range w.columns {
		if c := slices.Index(t.columns, name); i > r.at[c] {
			r.values[c], r.at[c] = value(w.row, name), i
		}
	}
}

// touch passes a changed row to the subscriptions that match the write: it is a
// sentinel, or writes a column that they name.
func (a *Agent) touch(t *table, w *write, r *record) {
	sentinel := w.deleted || len(t.columns) == len(t.key)
	for _, s := range a.subs {
		named := func(column string) bool { return slices.Contains(s.reads, column) }
		if s.table != w.table || a.faults.deafened == w.table || !sentinel && !slices.ContainsFunc(w.columns, named) {
			continue
		}
		if r.alive {
			s.touch(w.id, t.row(r))
		} else {
			s.touch(w.id, nil)
		}
	}
}

func (t *table) row(r *record) Row {
	row := make(Row, len(t.columns))
	for c, name := range t.columns {
		row[name] = r.values[c]
	}
	return row
}

// rows returns the rows that the agent has of a table, by identity.
func (t *table) rows() map[string]Row {
	rows := make(map[string]Row, len(t.records))
	for id, r := range t.records {
		if r.alive {
			rows[id] = t.row(r)
		}
	}
	return rows
}

// Versions returns how many versions the cluster has.
func (a *Agent) Versions() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.db.history)
}

// Wipe kills the agent and deletes its database. After Start it has an empty one,
// which Refill fills from the other agents.
func (a *Agent) Wipe() { a.Restore(0) }

// Restore kills the agent and replaces its database by a backup that has only the
// oldest versions. Without other members, the newer ones are lost.
func (a *Agent) Restore(versions int) {
	a.Kill()
	a.mu.Lock()
	defer a.mu.Unlock()
	db := &a.db
	db.newSite()
	db.members, db.down = 0, 0 // until they are recorded, once a minute
	for _, t := range db.tables {
		clear(t.records)
	}
	clear(db.heads)
	clear(db.applied)
	if a.opts.Members == 0 {
		for i := versions; i < len(db.history); i++ {
			db.history[i].gone = true
		}
		for _, t := range db.tables { // rows that are written again are inserts
			t.truth = map[string]Row{}
		}
	}
	for i := range versions {
		a.apply(i)
	}
	db.lagging = false
}

func (db *database) newSite() {
	db.sites++
	db.site = fmt.Sprintf("B%03d", db.sites)
}

// Refill gives the agent up to n of the versions that it lacks, the newest first, as
// it asks for them when it synchronizes. It returns how many it still lacks.
func (a *Agent) Refill(n int) (lacking int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	db := &a.db
	for i := len(db.history) - 1; i >= 0; i-- {
		switch {
		case db.applied[i] || db.history[i].gone:
		case n > 0:
			n--
			a.apply(i)
		default:
			lacking++
		}
	}
	return lacking
}

// LoseVersions takes the n newest versions from what the agent says that it has,
// while it runs.
func (a *Agent) LoseVersions(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	db := &a.db
	clear(db.heads)
	for i, v := range db.history {
		db.applied[i] = db.applied[i] && i < len(db.history)-n
		if db.applied[i] {
			db.heads[v.site] = max(db.heads[v.site], v.n)
		}
	}
}

// Meet lets the agent see the others, as it does a minute after it has started
// on a new database.
func (a *Agent) Meet() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.db.apart {
		a.db.members = a.opts.Members
	}
}

// Bury takes the n newest versions from all other agents.
func (a *Agent) Bury(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.db.history[max(0, len(a.db.history)-n):] {
		a.db.history[len(a.db.history)-1-i].gone = true
	}
}

// Isolate cuts the agent off from the others: it still answers, and learns nothing.
func (a *Agent) Isolate() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.db.apart, a.db.down, a.db.members, a.db.lagging = true, a.db.members, 0, false
}

// Rejoin ends Isolate; the agent learns what it has missed.
func (a *Agent) Rejoin() {
	a.mu.Lock()
	a.db.apart, a.db.down, a.db.members = false, 0, a.opts.Members
	a.mu.Unlock()
	a.Refill(math.MaxInt)
}

// LoseRow deletes rows from the subscriptions' own records without an announcement,
// as in an agent that failed to match a change.
func (a *Agent) LoseRow(name string, rows ...Row) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, row := range rows {
		for _, s := range a.subs {
			if s.table == name {
				delete(s.rows, a.db.tables[name].identity(row))
			}
		}
	}
}

// gaps returns the versions that the agent knows to exist and does not have:
// those below the newest one of a site.
func (db *database) gaps() map[string][]uint64 {
	gaps := map[string][]uint64{}
	for i, v := range db.history {
		if !db.applied[i] && v.n < db.heads[v.site] {
			gaps[v.site] = append(gaps[v.site], v.n)
		}
	}
	return gaps
}
