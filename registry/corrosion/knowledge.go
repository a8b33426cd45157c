package corrosion

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
)

// knowledgeSQL reads which versions the agent has of each site: the newest one,
// and those that are missing, wholly or in part; and how many other agents it sees.
const knowledgeSQL = `SELECT 'self', hex(crsql_site_id()), 0, 0` +
	` UNION ALL SELECT 'members', '', down, count(*) FROM (SELECT json_extract(foca_state, '$.state') = 'Down' AS down FROM __corro_members) GROUP BY down` +
	` UNION ALL SELECT 'head', hex(site_id), 1, db_version FROM crsql_db_versions` +
	` UNION ALL SELECT 'gap', hex(actor_id), start, "end" FROM __corro_bookkeeping_gaps` +
	` UNION ALL SELECT DISTINCT 'gap', hex(site_id), db_version, db_version FROM __corro_seq_bookkeeping`

// knowledge is which of the versions written in its cluster an agent has. All of
// them have been applied, deletes included: an object that was there with some
// versions, and is not there with those and others, has been deleted.
type knowledge struct {
	Self    string          `json:"self"` // the agent's own site
	Sites   map[string]site `json:"sites"`
	Members int             `json:"members"` // other agents that it sees
	Down    int             `json:"-"`       // other agents that it no longer sees
}

// site is which versions of one site an agent has: all from 1 to Head, apart from
// the gaps, which are sorted and neither overlap nor touch.
type site struct {
	Head uint64 `json:"head"`
	Gaps []span `json:"gaps,omitempty"`
}

type span struct{ First, Last uint64 }

// knowledge asks the agent what it knows. The error is errMute if its internal
// tables cannot be read.
func (a *agent) knowledge(ctx context.Context) (*knowledge, error) {
	k := &knowledge{Sites: map[string]site{}}
	err := a.query(ctx, knowledgeSQL, 4, k.add)
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

// add takes a row of knowledgeSQL.
func (k *knowledge) add(cells []cell) error {
	first, err1 := strconv.ParseUint(string(cells[2]), 10, 64)
	last, err2 := strconv.ParseUint(string(cells[3]), 10, 64)
	if err := cmp.Or(err1, err2); err != nil {
		return err
	}
	id := string(cells[1])
	s := k.Sites[id]
	switch what := cells[0]; {
	case what == "self":
		k.Self = id
	case what == "members" && first == 0:
		k.Members = int(last)
	case what == "members":
		k.Down = int(last)
	case what == "head":
		s.Head = last
		k.Sites[id] = s
	default: // gap
		s.Gaps = append(s.Gaps, span{first, last})
		k.Sites[id] = s
	}
	return nil
}

// errMute says that the agent has other internal tables than knowledgeSQL reads.
var errMute = errors.New("the agent does not tell which versions it has")

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

// count returns how many versions of a span that ends at the head or before it
// are there.
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

// learned returns a number that grows when the agent gets a version of another
// site, or hears of a site.
func (k *knowledge) learned() (n uint64) {
	for id, s := range k.Sites {
		if id != k.Self {
			n += s.Head + 1
		}
	}
	return n - min(n, k.gaps())
}

// alone reports whether the agent sees no other, and has data of no other site.
func (k *knowledge) alone() bool {
	others := len(k.Sites)
	if _, own := k.Sites[k.Self]; own {
		others--
	}
	return k.Members == 0 && others == 0
}

// union sorts spans and joins those that overlap or touch.
func union(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.First, b.First) })
	joined := spans[:0]
	for _, s := range spans {
		if n := len(joined); n > 0 && s.First <= joined[n-1].Last+1 {
			joined[n-1].Last = max(joined[n-1].Last, s.Last)
		} else {
			joined = append(joined, s)
		}
	}
	return joined
}
