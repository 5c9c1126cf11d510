package backend_test

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"testing"

	"signet/internal/backend"
	"signet/internal/gatewayconfig"
)

// BenchmarkDo compares a message through this package with the same request through a reverse
// proxy of the standard library, both called in this process, over loopback to one server.
func BenchmarkDo(b *testing.B) {
	server := httptest.NewServer(answering(`{"content":[{"type":"text","text":"hello"}],"resultType":"complete"}`))
	defer server.Close()
	target, err := url.Parse(server.URL)
	if err != nil {
		b.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
	back, err := backend.New(backend.Options{
		Server: at(server.URL), Log: slog.New(slog.DiscardHandler), Agent: "signet/test",
		Routing: gatewayconfig.Routing{Retries: 2, RetryNetwork: true, RetryClasses: []int{5}},
	})
	if err != nil {
		b.Fatal(err)
	}
	defer back.Close()
	message := modern(callOf("echo", `{"message":"hello"}`))
	body := []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":` + string(message.Params) + `}`)
	viaDo := func() error {
		_, err := back.Do(b.Context(), message, nil)
		return err
	}
	viaProxy := func() error {
		r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		proxy.ServeHTTP(w, r)
		_, err := io.Copy(io.Discard, w.Result().Body)
		return err
	}
	for _, parallel := range []int{1, 8, 32} {
		for round := range 3 { // interleaved, so that both meet the same machine
			name := strconv.Itoa(parallel) + "/round" + strconv.Itoa(round+1)
			b.Run("do/"+name, func(b *testing.B) { repeat(b, parallel, viaDo) })
			b.Run("proxy/"+name, func(b *testing.B) { repeat(b, parallel, viaProxy) })
		}
	}
}

func repeat(b *testing.B, parallel int, one func() error) {
	b.ReportAllocs()
	if parallel == 1 {
		for b.Loop() {
			if err := one(); err != nil {
				b.Fatal(err)
			}
		}
		return
	}
	b.SetParallelism(parallel)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if err := one(); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkResilience is what retries, circuit breaker, bulkhead and the choice of an instance add to
// a message, at an instance that answers at once.
func BenchmarkResilience(b *testing.B) {
	with, without := backend.Instant(gatewayconfig.Routing{Retries: 2, RetryNetwork: true, RetryClasses: []int{5}})
	m := callOf("echo", `{}`)
	m.Safe = true
	for _, parallel := range []int{1, 8} {
		b.Run("with/"+strconv.Itoa(parallel), func(b *testing.B) {
			repeat(b, parallel, func() error {
				_, err := with.Do(b.Context(), m, nil)
				return err
			})
		})
		b.Run("without/"+strconv.Itoa(parallel), func(b *testing.B) {
			repeat(b, parallel, func() error {
				_, err := without(b.Context(), m)
				return err
			})
		})
	}
}
