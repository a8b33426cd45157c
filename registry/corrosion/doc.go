// Package corrosion is the registry source that follows Corrosion, a SQLite
// database replicated by gossip, through the HTTP API of the agent on this host.
//
// Up to four subscriptions run side by side, one for each kind of object. Each
// lists its rows and then sends their changes, numbered without a gap; a
// listing of the registry is complete when all of them have listed. A stream that
// ends, skips a number or belongs to a subscription that the agent has forgotten
// is resumed or listed once more; if that fails, Follow returns the error.
//
// # What the agent does
//
// These rules were read in the agent's source, version 1.0.0, and measured. The
// source file is named after each, relative to crates/ in its repository. The fake
// agent of package corrosiontest keeps them, and the tests named TestBoth… run
// against either.
//
// Requests (corro-agent/src/agent/util.rs). HTTP/1.1 and, with prior knowledge,
// HTTP/2, over plain TCP. A bearer token is compared for each request. 128
// subscriptions, 128 queries and 4 health requests are served at a time;
// more get 503.
//
// Subscriptions (corro-agent/src/api/public/pubsub.rs):
//
//   - POST /v1/subscriptions with a statement. The headers corro-query-id and
//     corro-query-hash identify the subscription. The body is lines of JSON:
//     columns, rows, eoq with the newest change id, changes. GET
//     /v1/subscriptions/<id>?from=<change id> continues after a change; from=0
//     lists; an id beyond the newest is accepted; one that is too old
//     gives an error line; an unknown subscription 404.
//   - One subscription for each text of a statement, byte for byte, comments
//     included (corro-types/src/pubsub.rs, get_or_insert). A new text is a new
//     subscription, filled from the table as it is. It is dropped ten minutes
//     after its last subscriber has gone.
//   - A stream ends, without an error line, when the agent stops, when the
//     subscriber is 10,240 events behind, or when the subscription is cancelled.
//     The first subscriber gets its rows while the query runs and is dropped if it
//     is too slow; later ones get them from the subscription's record, at their
//     pace.
//   - The newest 500 changes are kept, older ones up to 5 minutes. An orderly
//     stop keeps the subscriptions, nearly always; a crash does not
//     (corro-agent/src/agent/setup.rs).
//
// Announcements (corro-types/src/pubsub.rs and updates.rs):
//
//   - A write is a candidate for a subscription if it wrote a column that the
//     query names, selected or in a condition; if it inserted or deleted a row
//     of a table that has only key columns; or if it deleted any row
//     (filter_matchable_change). An insert writes every column outside the key,
//     whichever its statement names. So a query that names none of them is told of
//     no new row, and the subscription's record, from which later listings come,
//     lacks them too.
//   - Candidates are gathered for up to 600 ms, or 1,000 of them, then compared
//     with the record. Inserts and updates are sent first and deletes after them,
//     whatever the order in which they were written.
//   - A candidate that fails on the way is logged and lost to the record for good.
//
// Refilling (corro-types/src/sync.rs and bookie.rs, corro-agent/src/api/peer/mod.rs):
//
//   - A database is a site with an id of its own, and each of its transactions a
//     version. crsql_db_versions has the newest version of each known site,
//     __corro_bookkeeping_gaps those below it that are missing, and
//     __corro_seq_bookkeeping those that are there in part.
//   - An agent that lacks versions asks others for them, site by site, the newest
//     first, every 1 to 15 s. Until then rows are incomplete: one whose state
//     changed after it was inserted first comes with its state alone.
//   - A wiped database is a new site, and so is a restored one
//     (corrosion/src/main.rs).
//
// Health (corro-agent/src/api/public/mod.rs): GET /v1/health gives gaps, members,
// p99_lag and queue_size; or 503, and an error in the agent's log, if no change
// of another agent was applied in the last two minutes
// (corro-types/src/metrics_tracker.rs). That is so of an agent that is cut off or
// has just started, and of any agent of a cluster in which nobody writes: it
// does not tell what the agent has. The members are counted in __corro_members,
// which is updated every 60 s and keeps those that are down for two days
// (corro-agent/src/broadcast/mod.rs).
//
// Queries (corro-agent/src/api/public/mod.rs): POST /v1/queries runs a read-only
// statement on the database itself, internal tables included, for at most a
// minute.
//
// # What this package does
//
// Proof of life. A subscription has no heartbeat: a quiet table and a frozen
// agent look the same. So the agent is asked "SELECT 1" every ten seconds, and
// each right answer is reported to the feed. Over HTTP/2 the answer comes on
// the connection that carries the streams, which has HTTP/2 pings as well. Over
// HTTP/1.1 every stream has its own connection, and TCP keepalive detects a dead
// peer. HTTP/2 is tried first at every connect; HTTP/1.1 is used where that is
// not understood, as with a proxy in between. The answers of an agent that sees
// none of the others that it once saw are not reported: it may be cut off.
//
// Completeness. The versions that the agent has of each site are remembered while
// it is followed, on disk as well. After a new connection its listing is trusted
// if it has all of those; what the listing lacks then was deleted. An agent that
// lacks versions is waited for while it receives them, and then listed with a
// doubt, so that nothing is removed. See whole.go.
//
// Comparison. Now and then each table is compared with its query, run on the
// table itself. See compare.go.
//
// # Queries
//
// Tables that differ from those that [DefaultQueries] expects are read by the
// operator's own queries, whose output columns have the same names, in any order.
// Such a query is a plain SELECT that names its columns, includes the tables'
// primary keys and at least one further column of each table, and has no ORDER
// BY, no aggregate and no self-join: the agent accepts those, and then sends
// wrong changes. It should leave out columns that change often and are not read
// here: every change of a selected column is an event, though one that costs the
// registry nothing. The query for machines may have the further column
// skip_registration, 0 or 1.
package corrosion
