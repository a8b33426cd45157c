package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"dnsd/registry/etcd/etcdtest"
	"dnsd/test/internal/lab"
	"dnsd/test/internal/truth"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// store is where a platform writes its objects. Calls that fail fail the test.
type store interface {
	put(...object)
	del(...object)
}

// etcdStore is an etcd cluster.
type etcdStore struct {
	c      *etcdtest.Cluster
	cli    *clientv3.Client
	prefix string
	t      testing.TB
}

func (e *etcdStore) must(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}

// maxTxn is how many operations etcd takes in one transaction.
const maxTxn = 128

func (e *etcdStore) commit(ops []clientv3.Op) {
	e.t.Helper()
	for part := range slices.Chunk(ops, maxTxn) {
		e.persist(func() error {
			_, err := e.cli.Txn(e.c.Context()).Then(part...).Commit()
			return err
		})
	}
}

// persist writes until it has worked: a cluster that elects a leader, or a
// machine that does much else, makes a writer try again. What is written is the
// same each time.
func (e *etcdStore) persist(write func() error) {
	e.t.Helper()
	var err error
	if !until(patience, func() bool { err = write(); return err == nil }) {
		e.t.Fatal(err)
	}
}

func (e *etcdStore) put(objects ...object) { e.t.Helper(); e.write(objects, nil) }
func (e *etcdStore) del(objects ...object) { e.t.Helper(); e.write(nil, objects) }

// write puts some objects and deletes others, in one transaction if it can.
func (e *etcdStore) write(put, gone []object) {
	e.t.Helper()
	var ops []clientv3.Op
	for _, o := range put {
		ops = append(ops, clientv3.OpPut(e.prefix+o.Key(), o.Value()))
	}
	for _, o := range gone {
		ops = append(ops, clientv3.OpDelete(e.prefix+o.Key()))
	}
	e.commit(ops)
}

// compact forgets all but the newest revision.
func (e *etcdStore) compact() {
	e.t.Helper()
	r, err := e.cli.Get(e.c.Context(), "x")
	e.must(err)
	if _, err = e.cli.Compact(e.c.Context(), r.Header.Revision); !errors.Is(err, rpctypes.ErrCompacted) { // nothing has changed since
		e.must(err)
	}
}

// through returns a proxy to the cluster, and the URL through it.
func (e *etcdStore) through() (*etcdtest.Proxy, string) {
	p := e.c.Through(e.t)
	return p, "etcd://" + p.Addr() + e.prefix
}

// password returns a file that holds a password.
func password(t testing.TB, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// machineNumber is a machine of my-app in netA.
func machineNumber(i int) *machine {
	return &machine{ID: fmt.Sprintf("m%04d", i), App: "my-app", Network: netA, State: "started", Region: "fra",
		Addr: fmt.Sprintf("fdaa:0:18:a7b:1:%x:1:2", i+1), Meta: map[string]string{"fly_process_group": "web"}}
}

// lasting is how many machines of a scene last.
const lasting = 25

// scene is a failure under way: a dnsd, its platform, what is true, and a client
// that never stops asking for the names of what lasts.
type scene struct {
	t testing.TB
	*server
	store store
	world world
	light weight // of dnsd, before
	asker *asker

	dead, fresh *machine // one that is there at first, and one that is not
}

// play writes the world to the platform and starts dnsd on it.
func play(t testing.TB, st store, url string, flags ...string) *scene {
	t.Helper()
	s := &scene{t: t, store: st, world: world{}, dead: machineNumber(8000), fresh: machineNumber(9000)}
	first := []object{&app{Name: "my-app", Network: netA}, &peer{Name: "office", Network: netA, Addr: "fdaa:0:18:a7b:d6b:0:a:102", Region: "ams"},
		&address{App: "my-app", Network: netA, Addr: "fdaa:0:18:0:1::7"}, s.dead,
		&machine{ID: "other1", App: "my-app", Network: netB, State: "started", Region: "fra", Addr: "fdaa:0:99:a7b:1:1:1:2"}}
	for i := range lasting {
		first = append(first, machineNumber(i))
	}
	s.put(first...)
	s.server = serve(t, lab.Binary(t), append([]string{"--registry", url, "--stale-after", "15s"}, flags...)...)
	s.awaitState(t, "live")
	s.agrees()
	s.weigh()
	s.asker = s.begin(t)
	return s
}

// weigh notes what dnsd holds while all is well.
func (s *scene) weigh() {
	for range 5 {
		w := s.weight()
		s.light.goroutines, s.light.files = max(s.light.goroutines, w.goroutines), max(s.light.files, w.files)
		time.Sleep(20 * time.Millisecond)
	}
}

func (s *scene) put(objects ...object) {
	s.t.Helper()
	s.store.put(objects...)
	for _, o := range objects {
		s.world[o.Key()] = o
	}
}

func (s *scene) del(objects ...object) {
	s.t.Helper()
	s.store.del(objects...)
	for _, o := range objects {
		delete(s.world, o.Key())
	}
}

// turn lets one machine die and another come to life.
func (s *scene) turn() {
	s.t.Helper()
	s.put(s.fresh)
	s.del(s.dead)
}

// questions are those whose answers make up the world of a scene.
func questions() []truth.Question {
	return []truth.Question{home.Instances(true), home.Instances(false), home.AAAA("", "my-app", nil), home.Peers(), home.Peer("office"), home.Flycast("my-app")}
}

// agrees waits until all names are as the world is.
func (s *scene) agrees() {
	s.t.Helper()
	var why string
	if !until(patience, func() bool {
		for _, q := range questions() {
			resp, err := s.ask(q.Name, q.Type)
			if err != nil {
				why = err.Error()
				return false
			}
			if got, want := truth.Said(resp), q.Answer(s.world); got != want || marked(resp) {
				why = fmt.Sprintf("%s (marked stale: %v) is %s, want %s", q.Name, marked(resp), got, want)
				return false
			}
		}
		return true
	}) {
		_, text := s.ready()
		s.t.Fatalf("%s\n%s", why, text)
	}
}

// heals waits until all is well again: live, true, and no heavier than before.
func (s *scene) heals() {
	s.t.Helper()
	s.awaitState(s.t, "live")
	s.agrees()
	s.asker.end(s.t)
	var now weight
	if !until(patience, func() bool {
		now = s.weight()
		return now.goroutines <= s.light.goroutines && now.files <= s.light.files
	}) {
		_, stacks := s.get("/debug/pprof/goroutine?debug=1")
		s.t.Errorf("dnsd holds %+v, before the failure %+v\n%s", now, s.light, stacks)
	}
	if held, age := s.held(), s.metrics()["dnsd_registry_age_seconds"]; held != 0 || age > 15 {
		s.t.Errorf("healed, and held is %d, the age %v s", held, age)
	}
	// What went wrong is told as long as it lasts: one tick of the clock later at most.
	ends := " ago"
	if len(s.world) == 0 {
		ends = " ago: the registry is empty: its source holds no object, so no app, machine or peer has a name"
	}
	s.await(s.t, "a readiness without trouble", func() bool {
		_, text := s.ready()
		return strings.HasPrefix(text, "live: ") && strings.HasSuffix(strings.TrimSpace(text), ends)
	})
}

// goesStale waits until the silence is noticed, and checks what is said of it.
func (s *scene) goesStale(words ...string) {
	s.t.Helper()
	s.awaitState(s.t, "stale", words...)
	s.await(s.t, "answers that are marked", s.asker.sees)
	if age := s.metrics()["dnsd_registry_age_seconds"]; age < 15 {
		s.t.Errorf("stale at an age of %v s", age)
	}
	if age := s.info()["age"]; len(age) < len("15s") || age < "15s" {
		s.t.Errorf("stale, and _dnsd.internal says that the age is %q", age)
	}
}

// asker asks for the names of what lasts, without end. None may be missing, ever.
type asker struct {
	line *line
	stop chan struct{}
	wg   sync.WaitGroup

	mu    sync.Mutex
	asked int
	stale bool // whether the last answer was marked
	wrong []string
}

func (s *server) begin(t testing.TB) *asker {
	line, err := s.dial()
	if err != nil {
		t.Fatal(err)
	}
	a := &asker{line: line, stop: make(chan struct{})}
	a.wg.Go(func() {
		defer line.Close()
		for i := 0; ; i++ {
			select {
			case <-a.stop:
				return
			case <-time.After(4 * time.Millisecond):
				a.once(i)
			}
		}
	})
	t.Cleanup(func() { a.end(t) })
	return a
}

func (a *asker) once(i int) {
	m := machineNumber(i % lasting)
	kept := world{m.Key(): m}
	for _, q := range []truth.Question{home.VM(m.App, m.ID), home.AAAA("", m.App, nil), home.Owner(m.Addr), home.Peer("office"), home.Flycast("my-app")}[i%5:][:1] {
		want := q.Answer(kept)
		if q.Kind != "machines" {
			want = "fdaa:0:18:"
		}
		resp, err := a.line.ask(q.Name, q.Type)
		a.mu.Lock()
		a.asked++
		switch {
		case err != nil:
			a.wrong = append(a.wrong, err.Error())
		case !strings.Contains(truth.Said(resp), want):
			a.wrong = append(a.wrong, fmt.Sprintf("%s: %s lacks %s", q.Name, truth.Said(resp), want))
		default:
			a.stale = marked(resp)
		}
		a.mu.Unlock()
	}
}

// sees reports whether the last answer was marked as stale.
func (a *asker) sees() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stale
}

// end stops asking and reports what was wrong.
func (a *asker) end(t testing.TB) {
	t.Helper()
	select {
	case <-a.stop:
		return
	default:
	}
	close(a.stop)
	a.wg.Wait()
	if a.asked == 0 {
		t.Error("nothing was asked")
	}
	for _, w := range a.wrong[:min(5, len(a.wrong))] {
		t.Errorf("a name was lost: %s", w)
	}
}
