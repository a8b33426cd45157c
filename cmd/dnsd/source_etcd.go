//go:build !noetcd

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"dnsd/registry/etcd"
	"dnsd/registry/follow"
)

var etcdKind = &sourceKind{scheme: "etcd", url: "etcd://HOST:PORT,.../PREFIX/", read: readEtcdURL, silence: etcd.Silence}

type etcdURL struct {
	endpoints []string
	prefix    string // of its keys
}

func readEtcdURL(url string) (registrySource, error) {
	endpoints, prefix, err := etcd.ParseURL(url)
	return etcdURL{endpoints, prefix}, err
}

func (u etcdURL) open(c *config, getenv func(string) string, log *slog.Logger) (follow.Source, error) {
	return etcd.New(etcd.Config{
		Endpoints: u.endpoints, Prefix: u.prefix,
		CAFile: c.Etcd.CA, CertFile: c.Etcd.Cert, KeyFile: c.Etcd.Key,
		Username: c.Etcd.User, Password: getenv(etcdPassword), PasswordFile: c.Etcd.PasswordFile,
	}, log)
}

func (etcdURL) check(_ context.Context, _ *config, _ func(string) string, stdout io.Writer) error {
	_, err := fmt.Fprintln(stdout, "the flags are good; the registry is no file, so there is none to check")
	return err
}
