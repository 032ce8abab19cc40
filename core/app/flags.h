/* Every command line flag, once: name, type, default, group, state, help. Names and defaults are ingress-nginx's (controller-behaviour b) where
 * they exist there. State: WORKS, LATER (accepted, said once at start), NOTHING (has no meaning here, accepted, said once). */
#ifndef APP_FLAGS_H
#define APP_FLAGS_H

/* X(name, field, type, default, group, state, help) */
#define FLAGS(X) \
  X("manifests", manifests, TEXT, "", STANDALONE, WORKS, "directory of Kubernetes manifests to serve, watched; no cluster needed") \
  X("policies", policies, LIST, "", STANDALONE, WORKS, "directory of Lua policies of your own (repeatable); a ConfigMap mount works") \
  X("resolver", resolver, TEXT, "", STANDALONE, WORKS, "ADDR:PORT of the DNS server for ExternalName (default: /etc/resolv.conf)") \
  X("require-policies", require_policies, FLAG, "false", STANDALONE, WORKS, "stay unready from the start until no mounted policy is broken") \
  X("trust-policies", trust_policies, FLAG, "false", STANDALONE, WORKS, "run mounted policies in the trusted state") \
  X("legacy-annotations", legacy_annotations, FLAG, "true", STANDALONE, WORKS, "also read annotations with the prefix ingress.kubernetes.io") \
  X("log-format", log_format, TEXT, "text", STANDALONE, WORKS, "own log: text or json") \
  X("http-port", http_port, NUMBER, "80", TRAFFIC, WORKS, "port of the HTTP listener (0: one from the kernel)") \
  X("https-port", https_port, NUMBER, "443", TRAFFIC, WORKS, "port of the HTTPS listener (0: one from the kernel)") \
  X("bind-address", bind_address, LIST, "", TRAFFIC, WORKS, "addresses to listen on (default: all)") \
  X("workers", workers, NUMBER, "0", TRAFFIC, WORKS, "worker threads (0: as many as the cgroup has CPUs)") \
  X("default-server-port", default_server_port, NUMBER, "8181", TRAFFIC, NOTHING, "the default backend is built in") \
  X("default-backend-service", default_backend_service, TEXT, "", TRAFFIC, WORKS, "ns/name of the Service for requests that match nothing") \
  X("default-ssl-certificate", default_ssl_certificate, TEXT, "", TRAFFIC, WORKS, "ns/name of the Secret with the fallback certificate") \
  X("enable-ssl-passthrough", enable_ssl_passthrough, FLAG, "false", TRAFFIC, LATER, "TLS passthrough listener") \
  X("ssl-passthrough-proxy-port", ssl_passthrough_proxy_port, NUMBER, "442", TRAFFIC, NOTHING, "internal to nginx") \
  X("enable-ssl-chain-completion", enable_ssl_chain_completion, FLAG, "false", TRAFFIC, LATER, "fetch missing intermediate certificates") \
  X("tcp-services-configmap", tcp_services_configmap, TEXT, "", TRAFFIC, LATER, "ns/name of the TCP port map") \
  X("udp-services-configmap", udp_services_configmap, TEXT, "", TRAFFIC, LATER, "ns/name of the UDP port map") \
  X("configmap", configmap, TEXT, "", OBJECTS, WORKS, "ns/name of the ConfigMap with the controller's settings") \
  X("ingress-class", ingress_class, TEXT, "nginx", OBJECTS, WORKS, "value of the class annotation, and name of the assumed IngressClass") \
  X("controller-class", controller_class, TEXT, "k8s.io/ingress-nginx", OBJECTS, WORKS, "spec.controller of our IngressClasses") \
  X("ingress-class-by-name", ingress_class_by_name, FLAG, "false", OBJECTS, WORKS, "also accept the IngressClass named like --ingress-class") \
  X("watch-ingress-without-class", watch_ingress_without_class, FLAG, "false", OBJECTS, WORKS, "take Ingresses without any class (standalone: true)") \
  X("watch-namespace", watch_namespace, TEXT, "", OBJECTS, WORKS, "only objects of this namespace") \
  X("watch-namespace-selector", watch_namespace_selector, TEXT, "", OBJECTS, WORKS, "only namespaces with these labels") \
  X("disable-catch-all", disable_catch_all, FLAG, "false", OBJECTS, WORKS, "ignore Ingresses with spec.defaultBackend") \
  X("disable-svc-external-name", disable_svc_external_name, FLAG, "false", OBJECTS, WORKS, "ignore ExternalName Services") \
  X("annotations-prefix", annotations_prefix, TEXT, "nginx.ingress.kubernetes.io", OBJECTS, WORKS, "prefix of annotations") \
  X("enable-annotation-validation", enable_annotation_validation, FLAG, "true", OBJECTS, WORKS, "annotations are always validated") \
  X("deep-inspect", deep_inspect, FLAG, "true", OBJECTS, WORKS, "refuse Ingresses with patterns of known attacks") \
  X("enable-topology-aware-routing", enable_topology_aware_routing, FLAG, "false", OBJECTS, WORKS, \
    "only endpoints meant for our node's zone, by the hints of EndpointSlices") \
  X("apiserver-host", apiserver_host, TEXT, "", CLUSTER, WORKS, "API server URL when not in a cluster") \
  X("certificate-authority", certificate_authority, TEXT, "", CLUSTER, WORKS, "CA file for it") \
  X("kubeconfig", kubeconfig, TEXT, "", CLUSTER, WORKS, "kubeconfig path") \
  X("sync-period", sync_period, TEXT, "0", CLUSTER, NOTHING, "forced relist interval") \
  X("sync-rate-limit", sync_rate_limit, TEXT, "0.3", CLUSTER, NOTHING, "there is no reload to limit") \
  X("disable-sync-events", disable_sync_events, FLAG, "false", CLUSTER, WORKS, "no Sync events") \
  X("publish-service", publish_service, TEXT, "", CLUSTER, WORKS, "Service whose address goes to the status of Ingresses") \
  X("publish-status-address", publish_status_address, TEXT, "", CLUSTER, WORKS, "fixed status addresses") \
  X("update-status", update_status, FLAG, "true", CLUSTER, WORKS, "write Ingress status") \
  X("update-status-on-shutdown", update_status_on_shutdown, FLAG, "true", CLUSTER, WORKS, "clear status when the last pod stops") \
  X("status-update-interval", status_update_interval, NUMBER, "60", CLUSTER, WORKS, "seconds between looks at the published address (5 at least)") \
  X("report-node-internal-ip-address", report_node_internal_ip_address, FLAG, "false", CLUSTER, WORKS, "internal node addresses in status") \
  X("election-id", election_id, TEXT, "ingress-controller-leader", CLUSTER, WORKS, "Lease name") \
  X("election-ttl", election_ttl, TEXT, "30s", CLUSTER, WORKS, "Lease duration") \
  X("disable-leader-election", disable_leader_election, FLAG, "false", CLUSTER, WORKS, "no Lease") \
  X("validating-webhook", validating_webhook, TEXT, "", CLUSTER, WORKS, "ADDR:PORT (or :PORT) of the admission webhook; off without it") \
  X("validating-webhook-certificate", validating_webhook_certificate, TEXT, "", CLUSTER, WORKS, "its certificate, a PEM file; read again when it changes") \
  X("validating-webhook-key", validating_webhook_key, TEXT, "", CLUSTER, WORKS, "its key, a PEM file") \
  X("disable-full-test", disable_full_test, FLAG, "false", CLUSTER, NOTHING, "an object is never judged by others") \
  X("healthz-port", healthz_port, NUMBER, "10254", OPERATION, WORKS, "port of /healthz and /metrics (0: one from the kernel)") \
  X("healthz-host", healthz_host, TEXT, "", OPERATION, WORKS, "its address (default: all)") \
  X("health-check-path", health_check_path, TEXT, "/healthz", OPERATION, WORKS, "path of the health check") \
  X("health-check-timeout", health_check_timeout, NUMBER, "10", OPERATION, NOTHING, "the check does not wait") \
  X("shutdown-grace-period", shutdown_grace_period, NUMBER, "0", OPERATION, WORKS, "seconds between SIGTERM and the end of accepting") \
  X("post-shutdown-grace-period", post_shutdown_grace_period, NUMBER, "10", OPERATION, WORKS, "seconds to wait after the last connection (standalone: 0)") \
  X("enable-metrics", enable_metrics, FLAG, "false", OPERATION, WORKS, "request metrics of ingress-nginx") \
  X("metrics-per-host", metrics_per_host, FLAG, "true", OPERATION, WORKS, "host label") \
  X("metrics-per-undefined-host", metrics_per_undefined_host, FLAG, "false", OPERATION, WORKS, "also hosts that no Ingress has") \
  X("report-status-classes", report_status_classes, FLAG, "false", OPERATION, WORKS, "2xx instead of 200") \
  X("time-buckets", time_buckets, TEXT, "0.005,0.01,0.025,0.05,0.1,0.25,0.5,1,2.5,5,10", OPERATION, WORKS, "histogram bounds, seconds") \
  X("length-buckets", length_buckets, TEXT, "10,20,30,40,50,60,70,80,90,100", OPERATION, WORKS, "histogram bounds, bytes of requests and answers") \
  X("size-buckets", size_buckets, TEXT, "10,100,1000,10000,100000,1000000,10000000", OPERATION, WORKS, "histogram bounds, bytes sent") \
  X("bucket-factor", bucket_factor, TEXT, "0", OPERATION, NOTHING, "native histograms: the text format has none") \
  X("max-buckets", max_buckets, NUMBER, "100", OPERATION, NOTHING, "native histograms: the text format has none") \
  X("exclude-socket-metrics", exclude_socket_metrics, LIST, "", OPERATION, WORKS, "request metrics not to export") \
  X("monitor-max-batch-size", monitor_max_batch_size, NUMBER, "10000", OPERATION, NOTHING, "nothing is batched") \
  X("profiling", profiling, FLAG, "true", OPERATION, NOTHING, "pprof is for Go programs") \
  X("profiler-port", profiler_port, NUMBER, "10245", OPERATION, NOTHING, "pprof") \
  X("profiler-address", profiler_address, TEXT, "127.0.0.1", OPERATION, NOTHING, "pprof") \
  X("status-port", status_port, NUMBER, "10246", OPERATION, NOTHING, "internal API of nginx") \
  X("stream-port", stream_port, NUMBER, "10247", OPERATION, NOTHING, "internal API of nginx") \
  X("internal-logger-address", internal_logger_address, TEXT, "127.0.0.1:11514", OPERATION, NOTHING, "syslog of the chroot image") \
  X("dynamic-configuration-retries", dynamic_configuration_retries, NUMBER, "15", OPERATION, NOTHING, "nothing is pushed over HTTP") \
  X("maxmind-mirror", maxmind_mirror, TEXT, "", OPERATION, LATER, "GeoIP") \
  X("maxmind-license-key", maxmind_license_key, TEXT, "", OPERATION, LATER, "GeoIP") \
  X("maxmind-edition-ids", maxmind_edition_ids, TEXT, "GeoLite2-City,GeoLite2-ASN", OPERATION, LATER, "GeoIP") \
  X("maxmind-retries-count", maxmind_retries_count, NUMBER, "1", OPERATION, LATER, "GeoIP") \
  X("maxmind-retries-timeout", maxmind_retries_timeout, TEXT, "0s", OPERATION, LATER, "GeoIP") \
  X("v", verbosity, NUMBER, "0", LOGGING, WORKS, "verbosity: 2 info, 5 debug (-v=5 too)") \
  X("logtostderr", logtostderr, FLAG, "true", LOGGING, NOTHING, "klog") \
  X("alsologtostderr", alsologtostderr, FLAG, "false", LOGGING, NOTHING, "klog") \
  X("stderrthreshold", stderrthreshold, TEXT, "2", LOGGING, NOTHING, "klog") \
  X("vmodule", vmodule, TEXT, "", LOGGING, NOTHING, "klog") \
  X("log_dir", log_dir, TEXT, "", LOGGING, NOTHING, "klog") \
  X("log_file", log_file, TEXT, "", LOGGING, NOTHING, "klog") \
  X("log_file_max_size", log_file_max_size, NUMBER, "1800", LOGGING, NOTHING, "klog") \
  X("log_backtrace_at", log_backtrace_at, TEXT, "", LOGGING, NOTHING, "klog") \
  X("add_dir_header", add_dir_header, FLAG, "false", LOGGING, NOTHING, "klog") \
  X("skip_headers", skip_headers, FLAG, "false", LOGGING, NOTHING, "klog") \
  X("skip_log_headers", skip_log_headers, FLAG, "false", LOGGING, NOTHING, "klog") \
  X("one_output", one_output, FLAG, "false", LOGGING, NOTHING, "klog") \
  X("version", version, FLAG, "false", LOGGING, WORKS, "print the version and exit") \
  X("help", help, FLAG, "false", LOGGING, WORKS, "print this and exit")

#endif
