// Etcd-put writes one machine where dnsd reads it: the least that a platform
// does to have it in DNS.
//
//	etcd-put 127.0.0.1:2379
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	key   = "/dnsd/v1/machines/fdaa:0:18::/my-app/148e21dad76789"
	value = `{"id": "148e21dad76789", "app": "my-app", "state": "started", "region": "iad",
  "private_ip": "fdaa:0:18:a7b:7d:f066:b83b:2", "config": {"metadata": {"fly_process_group": "web"}}}`
)

func main() {
	if err := put(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "etcd-put:", err)
		os.Exit(1)
	}
}

func put(endpoints []string) error {
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints})
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err = client.Put(ctx, key, value)
	return err
}
