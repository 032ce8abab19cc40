// The embedded etcd: one member, data under DIR, no fsync (a killed process loses nothing by that, a killed machine may).
package main

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/embed"
)

type etcdServer struct{ *embed.Etcd }

func startEtcd(ctx context.Context, dir string) (*etcdServer, error) {
	client, peer := url.URL{Scheme: "http", Host: "127.0.0.1:2379"}, url.URL{Scheme: "http", Host: "127.0.0.1:2380"}
	config := embed.NewConfig()
	config.Dir = dir
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.UnsafeNoFsync = true
	config.LogLevel = "error"
	server, err := embed.StartEtcd(config)
	if err != nil {
		return nil, err
	}
	select {
	case <-server.Server.ReadyNotify():
		return &etcdServer{server}, nil
	case <-time.After(30 * time.Second):
		err = fmt.Errorf("not ready after 30 s")
	case <-ctx.Done():
		err = ctx.Err()
	}
	server.Close()
	return nil, err
}

func (e *etcdServer) clientURL() string { return e.Config().ListenClientUrls[0].String() }

func (e *etcdServer) compact(ctx context.Context) (int64, error) {
	revision := e.Server.KV().Rev()
	_, err := e.Server.Compact(ctx, &etcdserverpb.CompactionRequest{Revision: revision, Physical: true})
	return revision, err
}
