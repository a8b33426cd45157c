package corrosion

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// knowledgeSQL reads what an agent's database has of the versions that each
// site, which is a database of the cluster, has written: up to which, and which
// of them are missing, wholly or in part; and how many other agents are seen.
const knowledgeSQL = `SELECT 'self', hex(crsql_site_id()), 0, 0` +
	` UNION ALL SELECT 'members', '', down, count(*) FROM (SELECT json_extract(foca_state, '$.state') = 'Down' AS down FROM __corro_members) GROUP BY down` +
	` UNION ALL SELECT 'head', hex(site_id), 1, db_version FROM crsql_db_versions` +
	` UNION ALL SELECT 'gap', hex(actor_id), start, "end" FROM __corro_bookkeeping_gaps` +
	` UNION ALL SELECT DISTINCT 'gap', hex(site_id), db_version, db_version FROM __corro_seq_bookkeeping`

// knowledge is what an agent's database holds of all that was ever written in
// its cluster. Every version that is in it has been applied, deletes included:
// an object that was there with these versions, and is not there with these and
// others, has been deleted.
type knowledge struct {
	Self    string          `json:"self"` // the agent's own site
	Sites   map[string]site `json:"sites"`
	Members int             `json:"members"` // other agents that it sees
	Down    int             `json:"-"`       // those that it no longer sees
}

// site is what is known of one site's versions: all from 1 to Head, apart from
// the gaps, which are sorted and don't touch.
type site struct {
	Head uint64 `json:"head"`
	Gaps []span `json:"gaps,omitempty"`
}

type span struct{ First, Last uint64 }

// knowledge asks the agent what it knows. An error that is errMute says that it
// does not tell.
func (a *agent) knowledge(ctx context.Context, timeout time.Duration) (*knowledge, error) {
	k := &knowledge{Sites: map[string]site{}}
	err := a.query(ctx, knowledgeSQL, timeout, func(raw json.RawMessage) error {
		var cells []cell
		if err := json.Unmarshal(raw, &cells); err != nil {
			return err
		}
		if len(cells) != 4 {
			return fmt.Errorf("%d cells, want 4", len(cells))
		}
		first, err1 := strconv.ParseUint(string(cells[2]), 10, 64)
		last, err2 := strconv.ParseUint(string(cells[3]), 10, 64)
		if err := cmp.Or(err1, err2); err != nil {
			return err
		}
		id := string(cells[1])
		s := k.Sites[id]
		switch cells[0] {
		case "self":
			k.Self = id
		case "members":
			if first == 0 {
				k.Members = int(last)
			} else {
				k.Down = int(last)
			}
		case "head":
			s.Head = max(s.Head, last)
			k.Sites[id] = s
		case "gap":
			s.Gaps = append(s.Gaps, span{first, last})
			k.Sites[id] = s
		}
		return nil
	})
	var status *statusError
	if errors.As(err, &status) && status.code == http.StatusBadRequest {
		return nil, fmt.Errorf("%w: %w", errMute, err)
	}
	for id, s := range k.Sites {
		s.Gaps = union(s.Gaps)
		k.Sites[id] = s
	}
	return k, err
}

// errMute says that the agent has other internal tables than those that are
// known here.
var errMute = errors.New("the agent does not tell what it knows")

// lacks returns how many of the versions that before had are missing in k.
func (k *knowledge) lacks(before *knowledge) (n uint64) {
	for id, b := range before.Sites {
		now := k.Sites[id]
		if b.Head > now.Head {
			n += b.count(span{now.Head + 1, b.Head})
		}
		for _, gap := range now.Gaps {
			if gap.First <= min(b.Head, now.Head) {
				n += b.count(span{gap.First, min(gap.Last, b.Head, now.Head)})
			}
		}
	}
	return n
}

// count returns how many versions of a span, none of them beyond the head, are
// there.
func (s *site) count(in span) uint64 {
	n := in.Last - in.First + 1
	for _, gap := range s.Gaps {
		if first, last := max(gap.First, in.First), min(gap.Last, in.Last); first <= last {
			n -= last - first + 1
		}
	}
	return n
}

// gaps returns how many versions the agent knows to exist and does not have.
func (k *knowledge) gaps() (n uint64) {
	for _, s := range k.Sites {
		for _, gap := range s.Gaps {
			n += gap.Last - gap.First + 1
		}
	}
	return n
}

// learned returns a number that grows with every version of another site.
func (k *knowledge) learned() (n uint64) {
	for id, s := range k.Sites {
		if id != k.Self {
			n += s.Head + 1
		}
	}
	return n - min(n, k.gaps())
}

// alone reports whether there is no other agent, nor a site that has written
// anything.
func (k *knowledge) alone() bool {
	if k.Members > 0 {
		return false
	}
	for id := range k.Sites {
		if id != k.Self {
			return false
		}
	}
	return true
}

// union sorts spans and joins those that overlap or touch.
func union(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.First, b.First) })
	joined := spans[:0]
	for _, s := range spans {
		if n := len(joined); n > 0 && s.First <= joined[n-1].Last+1 {
			joined[n-1].Last = max(joined[n-1].Last, s.Last)
		} else if s.First <= s.Last {
			joined = append(joined, s)
		}
	}
	return joined
}
