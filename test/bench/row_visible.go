package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// visibleRow measures how long a change takes from the put into etcd until an
// answer shows it: at rest, while 2,000 others a second are made, and while
// questions are answered besides.
func visibleRow(ctx context.Context, b *bench) error {
	f := newFleet(1000, 5, 1000)
	qs := f.mix(newRand())
	c, err := b.startCluster(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.fill(ctx, f); err != nil {
		return err
	}
	s, err := b.dnsdServer(ctx, daemon{registry: c.url})
	if err != nil {
		return err
	}
	defer s.stop()
	if err := check(s.v4, qs); err != nil {
		return err
	}
	asked, err := pack(qs)
	if err != nil {
		return err
	}
	samples := pick(b, 1000, 50)
	probe := f.apps[0]
	others := f.apps[1:]
	var rows [][]string
	for _, phase := range []struct {
		name string
		rate int
		load int // questions a second besides
	}{{"idle", 0, 0}, {"2,000 changes/s", churnRate, 0}, {"2,000 changes/s, 10,000 questions/s", churnRate, 10_000}} {
		end := func() (float64, error) { return 0, nil }
		if phase.rate > 0 {
			end = c.churn(ctx, others, phase.rate)
		}
		inner, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() {
			if phase.load == 0 {
				done <- nil
				return
			}
			p := paced{addr: at("fdaa::3", portDNSD), network: home, rate: phase.load, questions: cycle(asked)}
			_, err := p.run(inner)
			done <- err
		}()
		l, err := c.latencies(ctx, s, probe, samples)
		cancel()
		if bad := <-done; err == nil {
			err = bad
		}
		rate, bad := end()
		if err == nil {
			err = bad
		}
		if err != nil {
			return fmt.Errorf("%s: %w", phase.name, err)
		}
		cells := []string{phase.name, fmt.Sprintf("%.0f", rate)}
		for _, all := range [][]time.Duration{l.seen, l.watched, l.after} {
			slices.Sort(all)
			cells = append(cells, milli(quantile(all, 0.5)), milli(quantile(all, 0.99)))
		}
		rows = append(rows, cells)
		b.say("  %s: %v", phase.name, cells[1:])
	}
	b.heading("Event to visible answer", "From the moment before a put is sent to etcd until an answer of dnsd shows it, asked every 0.1 ms; %d changes, 5 ms apart. "+
		"Beside it what a plain watcher of the same etcd sees, in the bench's own process: the part that is not dnsd's; "+
		"and how much later than that, change by change, the answer was right.", samples)
	b.table([]string{"", "changes/s reached", "visible p50, ms", "p99, ms", "watcher p50, ms", "p99, ms", "later than the watcher p50, ms", "p99, ms"}, rows)
	return nil
}

// latencies are how long each change took to be in dnsd's answer, in a watcher's
// hands, and from there to the answer: 0 where the answer came first.
type latencies struct{ seen, watched, after []time.Duration }

// latencies changes the first machine of a n times.
func (c *cluster) latencies(ctx context.Context, s *server, a *app, n int) (l latencies, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m := a.machines[0]
	key, _ := a.keyValue(m)
	events := c.client.Watch(clientv3.WithRequireLeader(ctx), prefix+key)
	conn, err := dns.Dial("udp", s.v4)
	if err != nil {
		return l, err
	}
	defer conn.Close()
	q := a.vm(m)
	for i := range n {
		b := m.addr.As16()
		b[14], b[15] = byte(1+i>>8), byte(i)
		m.addr = netip.AddrFrom16(b)
		q.data = []string{m.addr.String()}

		began := time.Now()
		put := make(chan error, 1)
		arrived := make(chan time.Duration, 1)
		go func() { put <- c.put(ctx, a, m) }()
		go func() {
			if _, ok := <-events; ok {
				arrived <- time.Since(began)
			}
			close(arrived)
		}()
		for {
			resp, err := ask(conn, &q)
			if err != nil {
				return l, err
			}
			if q.right(resp) == nil {
				break
			}
			if err := pause(ctx, 100*time.Microsecond); err != nil {
				return l, err
			}
			if time.Since(began) > 30*time.Second {
				return l, fmt.Errorf("a change is not visible after 30 s: %w", q.right(resp))
			}
		}
		visible := time.Since(began)
		if err := <-put; err != nil {
			return l, err
		}
		select {
		case d, ok := <-arrived:
			if !ok {
				return l, fmt.Errorf("the watcher was ended")
			}
			l.seen, l.watched, l.after = append(l.seen, visible), append(l.watched, d), append(l.after, max(0, visible-d))
		case <-time.After(30 * time.Second):
			return l, fmt.Errorf("the watcher has not seen a change for 30 s")
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return l, err
		}
	}
	return l, nil
}
