package cluster

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"dnsd/registry/corrosion/corrosiontest"
	"dnsd/registry/etcd/etcdtest"
	"dnsd/test/internal/lab"

	"github.com/miekg/dns"
)

// TestEmpty is about a source that is right but for where it reads: all is well with
// it, and it holds nothing. Each way of asking how dnsd is says so, until something
// is there.
func TestEmpty(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(*testing.T) (st store, url, beside string){
		"file": func(t *testing.T) (store, string, string) {
			p := &filePlatform{t: t, path: filepath.Join(t.TempDir(), "registry.json"), world: world{}, texts: map[object]json.RawMessage{}}
			p.commit(nil, nil)
			return p, p.url(), "nothing that dnsd may see"
		},
		"etcd": func(t *testing.T) (store, string, string) {
			e := newEtcd(t, etcdtest.Options{})
			e.prefix = "/dnsd/v2/"
			e.put(machineNumber(1), machineNumber(2))
			e.prefix = "/dnsd/v3/"
			e.put(machineNumber(1))
			e.prefix = "/dnsd/v1/"
			return e, e.c.URL(e.prefix), "/dnsd/v2/, /dnsd/v3/"
		},
		"corrosion": func(t *testing.T) (store, string, string) {
			a := &agentStore{newAgent(t, corrosiontest.Options{}), t}
			return a, "corrosion://" + a.Addr(), "nothing that dnsd may see"
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st, url, beside := open(t)
			s := serve(t, lab.Binary(t), "--registry", url)
			s.awaitState(t, "live", "the registry is empty")
			if code, _ := s.ready(); code != http.StatusOK {
				t.Errorf("/readyz is %d; a registry may be empty", code)
			}
			if got := s.info()["registry"]; got != "empty" {
				t.Errorf("_dnsd says registry=%q, want empty", got)
			}
			s.nameless(t, true)
			s.await(t, "the warning", func() bool {
				log := s.Stderr.String()
				return strings.Contains(log, "level=WARN") && strings.Contains(log, "the registry is empty") && strings.Contains(log, url) && strings.Contains(log, beside)
			})

			st.put(machineNumber(1))
			s.await(t, "a machine", func() bool {
				resp, err := s.ask("my-app.internal", dns.TypeAAAA)
				return err == nil && len(resp.Answer) == 1
			})
			if _, text := s.ready(); strings.Contains(text, "the registry is empty") {
				t.Errorf("/readyz with a machine: %s", text)
			}
			if got, ok := s.info()["registry"]; ok {
				t.Errorf("_dnsd with a machine says registry=%q", got)
			}
			s.nameless(t, false)
			if n := strings.Count(s.Stderr.String(), "the registry is empty"); n != 1 {
				t.Errorf("it was said %d times", n)
			}
		})
	}
}

// TestEmptyToRole is about a role that may see nothing beside its empty prefix.
func TestEmptyToRole(t *testing.T) {
	t.Parallel()
	e := newEtcd(t, etcdtest.Options{})
	e.c.AddUsers(e.cli, e.prefix)
	e.prefix = "/secret/v1/"
	e.put(machineNumber(1))
	_, err := e.cli.AuthEnable(e.c.Context())
	e.must(err)
	s := serve(t, lab.Binary(t), "--registry", e.c.URL(prefix), "--etcd-user", "dnsd", "--etcd-password-file", password(t, "s3cret-dnsd"))
	s.awaitState(t, "live", "the registry is empty")
	s.await(t, "the warning", func() bool {
		return strings.Contains(s.Stderr.String(), `beside="nothing that dnsd may see"`)
	})
}

// TestNotEmpty is about a registry that holds something when it is first listed.
func TestNotEmpty(t *testing.T) {
	t.Parallel()
	p := &filePlatform{t: t, path: filepath.Join(t.TempDir(), "registry.json"), world: world{}, texts: map[object]json.RawMessage{}}
	p.put(&peer{Name: "office", Network: netB, Addr: "fdaa:0:99:a7b:d6b:0:a:102"})
	s := serve(t, lab.Binary(t), "--registry", p.url())
	s.awaitState(t, "live")
	if _, text := s.ready(); strings.Contains(text+s.Stderr.String(), "is empty") {
		t.Errorf("a peer of another network is there, and dnsd says: %s\n%s", text, &s.Stderr)
	}
	s.nameless(t, false) // though this network has nothing
}

// nameless asks for a name that does not exist, and checks whether the answer says
// that nothing does.
func (s *server) nameless(t testing.TB, empty bool) {
	t.Helper()
	resp, err := s.ask("nothing.internal", dns.TypeAAAA)
	if err != nil {
		t.Fatal(err)
	}
	said := ""
	for _, o := range resp.IsEdns0().Option {
		if ede, ok := o.(*dns.EDNS0_EDE); ok {
			said += ede.ExtraText + "; "
		}
	}
	if resp.Rcode != dns.RcodeNameError || strings.Contains(said, "the registry is empty") != empty || !strings.Contains(said, "no app nothing in your network") {
		t.Errorf("the answer is %s with %q; the registry is empty: %v", dns.RcodeToString[resp.Rcode], said, empty)
	}
}
