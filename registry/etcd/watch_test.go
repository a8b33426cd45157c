package etcd

import (
	"context"
	"errors"
	"testing"
	"time"

	"dnsd/registry/contain"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// stumbling is a watch that hears nothing and panics when it is asked for a sign
// of life.
type stumbling struct {
	pb.Watch_WatchClient
	ctx context.Context
}

func (s stumbling) Watch(ctx context.Context, _ ...grpc.CallOption) (pb.Watch_WatchClient, error) {
	s.ctx = ctx
	return s, nil
}

func (s stumbling) Send(r *pb.WatchRequest) error {
	if r.GetProgressRequest() != nil {
		panic("out of step")
	}
	return nil
}

func (s stumbling) Recv() (*pb.WatchResponse, error) { <-s.ctx.Done(); return nil, s.ctx.Err() }

// A panic beside the stream ends the watch, and not the process.
func TestAPanicEndsTheWatch(t *testing.T) {
	s := &Source{cfg: Config{Prefix: prefix}, pace: pace{first: time.Millisecond, steady: time.Millisecond, silence: time.Hour}}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := s.watch(ctx, &client{watch: stumbling{}}, nil)
	if !errors.As(err, new(*contain.Error)) {
		t.Errorf("the watch ended with %v", err)
	}
}
