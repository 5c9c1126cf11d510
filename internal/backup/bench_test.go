package backup_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"signet/internal/backup"
	"signet/internal/store"
	"signet/internal/test/storetest"
)

// A backup of N grants beside a writer, and its restore; 5 million with
//
//	go test -run '^$' -bench Backup -benchtime 5000000x ./backup
func BenchmarkBackup(b *testing.B) {
	ring := newRing(b)
	o := storetest.SQLite.Nowhere(b)
	if err := store.Create(b.Context(), o, ring.Fingerprint()); err != nil {
		b.Fatal(err)
	}
	s := storetest.Open(b, o)
	for first := 0; first < b.N; first += 10_000 {
		err := s.Write(b.Context(), func(tx store.Tx) error {
			for i := first; i < min(first+10_000, b.N); i++ {
				if _, err := tx.Exec(insertGrant, fmt.Sprintf("%08x-%017d", i, i), 3, 1795212000000, 0, fmt.Sprint("user", i%100_000), "A client"); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	path := filepath.Join(b.TempDir(), "backup")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	heap := peakHeap()
	worst, stop := slowestWrite(b, s)
	began := time.Now()
	w, err := backup.NewWriter(f, ring, backup.Header{Root: s.Fingerprint()})
	if err == nil {
		err = s.Dump(b.Context(), w.Row)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		b.Fatal(err)
	}
	dumped := time.Since(began)
	time.Sleep(time.Second) // the log of that time is moved into the file
	stop()
	if _, err := f.Seek(0, 0); err != nil {
		b.Fatal(err)
	}
	began = time.Now()
	r, err := backup.NewReader(bufio.NewReader(f), ring)
	if err == nil {
		err = r.Files(nil)
	}
	if err == nil {
		_, err = store.Restore(b.Context(), storetest.SQLite.Nowhere(b), store.Contents{Fingerprint: r.Header.Root, Next: r.Next}, false)
	}
	if err != nil {
		b.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(dumped.Seconds(), "s-backup")
	b.ReportMetric(time.Since(began).Seconds(), "s-restore")
	b.ReportMetric(float64(info.Size())/float64(b.N), "bytes/grant")
	b.ReportMetric(float64(worst().Milliseconds()), "ms-worst-write")
	b.ReportMetric(float64(heap())/(1<<20), "MiB-heap")
}

// slowestWrite writes one row after another until it is stopped.
func slowestWrite(b *testing.B, s *store.Store) (worst func() time.Duration, stop func()) {
	ctx, cancel := context.WithCancel(b.Context())
	var longest time.Duration
	var done sync.WaitGroup
	done.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			began := time.Now()
			err := s.Write(context.Background(), func(tx store.Tx) error {
				_, err := tx.Exec("INSERT INTO spent (kind, id, expires_at) VALUES ('k', $1, 1)", fmt.Sprint(n))
				return err
			})
			if err != nil {
				b.Error(err)
				return
			}
			longest = max(longest, time.Since(began))
		}
	})
	return func() time.Duration { return longest }, func() { cancel(); done.Wait() }
}

// peakHeap samples how much memory is in use, until it is asked.
func peakHeap() func() uint64 {
	stop := make(chan struct{})
	peak := make(chan uint64)
	go func() {
		var most uint64
		for {
			select {
			case <-stop:
				peak <- most
				return
			case <-time.After(50 * time.Millisecond):
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapAlloc)
			}
		}
	}()
	return func() uint64 { close(stop); return <-peak }
}
