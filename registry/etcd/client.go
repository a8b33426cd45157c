package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"dnsd/registry/regular"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// A connection is pinged after 10 s without traffic and closed 5 s later if there
// is no answer: a frozen or unplugged server is noticed after 15 s. gRPC does not
// ping more often than every 10 s.
const (
	keepalive        = 10 * time.Second
	keepaliveTimeout = 5 * time.Second
)

// anySize lifts gRPC's limit of 4 MiB on received messages: pages and batches of
// changes have no such bound, and the server is trusted.
var anySize = grpc.MaxCallRecvMsgSize(math.MaxInt32)

// client is one connection to the cluster, authenticated. Its methods may be
// called from several goroutines.
type client struct {
	lib     *clientv3.Client
	kv      pb.KVClient
	watch   pb.WatchClient
	auth    pb.AuthClient
	status  pb.MaintenanceClient
	timeout time.Duration // of each request
	hint    string        // a likely reason for a refused connection; may be empty

	// Set before there are several goroutines.
	password string
	token    string // of the user; empty without one
	fresh    bool   // the token is of this connection
}

// connect prepares a connection, and logs the user in unless there is a token.
// Without a user, nothing is sent before the first request.
func (s *Source) connect(ctx context.Context) (*client, error) {
	tlsConf, err := tlsConfig(s.cfg)
	if err != nil {
		return nil, err
	}
	pass, err := password(s.cfg)
	if err != nil {
		return nil, err
	}
	lib, err := clientv3.New(clientv3.Config{
		Context:              ctx,
		Endpoints:            s.cfg.Endpoints,
		TLS:                  tlsConf,
		DialKeepAliveTime:    keepalive,
		DialKeepAliveTimeout: keepaliveTimeout,
		DialOptions:          transport(),
		MaxUnaryRetries:      1, // the follower retries
		Logger:               zap.NewNop(),
	})
	if err != nil {
		return nil, err
	}
	conn := lib.ActiveConnection()
	c := &client{lib: lib, kv: pb.NewKVClient(conn), watch: pb.NewWatchClient(conn), auth: pb.NewAuthClient(conn), status: pb.NewMaintenanceClient(conn),
		timeout: s.cfg.Timeout, hint: expiry(tlsConf, s.cfg.CertFile), password: pass, token: s.token}
	if s.cfg.Username != "" && s.token == "" {
		if err := s.authenticate(ctx, c); err != nil {
			lib.Close()
			return nil, err
		}
	}
	return c, nil
}

// outgoing adds the metadata of every request to ctx: the token, and that a
// member without a leader is to refuse the request at once.
func (c *client) outgoing(ctx context.Context) context.Context {
	ctx = clientv3.WithRequireLeader(ctx)
	if c.token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, c.token)
	}
	return ctx
}

// get reads a range once, within the time-out, and returns gRPC's error. It does
// not wait for an end point to come up: if there is none, it fails at once.
func (c *client) get(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return c.kv.Range(c.outgoing(ctx), r, anySize)
}

// revision returns the cluster's revision and term. It asks the cluster, and not only one
// member, for a key that the user may read; that there is none costs nothing.
func (c *client) revision(ctx context.Context, key string) (rev int64, term uint64, err error) {
	r, err := c.get(ctx, &pb.RangeRequest{Key: []byte(key), CountOnly: true})
	if err != nil {
		return 0, 0, c.plain(err)
	}
	return r.Header.GetRevision(), r.Header.GetRaftTerm(), nil
}

// plain returns err as etcd's own error if rpctypes knows it, and otherwise
// gRPC's message without its prefix.
func (c *client) plain(err error) error {
	if err == nil {
		return nil
	}
	known := rpctypes.Error(err)
	if errors.As(known, new(rpctypes.EtcdError)) {
		return known
	}
	st := status.Convert(err)
	switch st.Code() {
	case codes.DeadlineExceeded:
		return fmt.Errorf("no answer within %s%s", c.timeout, c.hint)
	case codes.Unavailable:
		return errors.New(st.Message() + c.hint)
	}
	return errors.New(st.Message())
}

// tlsConfig reads the files of cfg; it returns nil where cfg names none.
func tlsConfig(cfg Config) (*tls.Config, error) {
	if (cfg.CertFile == "") != (cfg.KeyFile == "") {
		return nil, errors.New("a client certificate for etcd needs both its certificate file and its key file")
	}
	if cfg.CAFile == "" && cfg.CertFile == "" {
		return nil, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.CAFile != "" {
		pem, err := regular.Read(cfg.CAFile, regular.MaxSettings)
		if err != nil {
			return nil, fmt.Errorf("reading etcd's CA certificates: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no PEM certificate", cfg.CAFile)
		}
	}
	if cfg.CertFile != "" {
		cert, err := keyPair(cfg.CertFile, cfg.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("reading the client certificate for etcd: %w", err)
		}
		conf.Certificates = []tls.Certificate{cert}
	}
	return conf, nil
}

// keyPair reads a certificate and its key.
func keyPair(certFile, keyFile string) (tls.Certificate, error) {
	cert, errCert := regular.Read(certFile, regular.MaxSettings)
	key, errKey := regular.Read(keyFile, regular.MaxSettings)
	if err := errors.Join(errCert, errKey); err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}

// expiry returns a hint if the client's certificate has expired. Servers refuse
// it with an unclear message ("bad certificate") or none.
func expiry(conf *tls.Config, file string) string {
	if conf == nil || len(conf.Certificates) == 0 {
		return ""
	}
	if end := conf.Certificates[0].Leaf.NotAfter; time.Now().After(end) {
		return fmt.Sprintf(" (the client certificate %s expired on %s)", file, end.UTC().Format(time.RFC3339))
	}
	return ""
}

// password returns the user's password, from its file if there is one.
func password(cfg Config) (string, error) {
	switch {
	case cfg.Username == "" && (cfg.Password != "" || cfg.PasswordFile != ""):
		return "", errors.New("a password for etcd needs a user")
	case cfg.Password != "" && cfg.PasswordFile != "":
		return "", errors.New("the password for etcd is given twice: want it directly or in a file")
	case cfg.PasswordFile == "":
		return cfg.Password, nil
	}
	b, err := regular.Read(cfg.PasswordFile, regular.MaxSettings)
	if err != nil {
		return "", fmt.Errorf("reading the password for etcd: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
