package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"signet/internal/state"
	"signet/internal/store"
	"signet/keys"
)

// finding is the result of one check.
type finding struct {
	What    string `json:"what"`
	OK      bool   `json:"ok"`
	Warning bool   `json:"warning,omitempty"` // a server starts, but something is probably not meant
	Message string `json:"message"`
}

var errUnwell = errors.New("something is wrong: see above")

func doctorCommand(p Process) *cobra.Command {
	var asJSON, acceptLoss, acceptClock, ready bool
	cmd := &cobra.Command{
		Use: "doctor", Short: "Check settings and data before a start", Args: cobra.NoArgs,
		Long: "Check settings and data, and change nothing. Exit status 1 if a server would not\n" +
			"start; a warning is something that is probably not meant.\n\n" +
			"With --accept-loss make a data directory usable again after files were lost:\n" +
			"damaged files are moved aside, missing ones are made, and nothing that was\n" +
			"issued before is accepted any more. All users sign in again.\n\n" +
			"With --accept-clock go on from this machine's clock, after a wrong clock has moved\n" +
			"the store's time ahead. All users sign in again.\n\n" +
			"With --ready check nothing, and ask the server that runs here with these\n" +
			"settings: exit status 0 if it is ready, 1 if it is not ready or not running.",
		RunE: p.withConfig(func(cmd *cobra.Command, cfg *config, _ []string) error {
			if ready {
				answer, err := askReady(cmd.Context(), cfg)
				if err == nil {
					fmt.Fprintln(p.Stdout, answer)
				}
				return err
			}
			if acceptLoss || acceptClock {
				accept := state.AcceptLoss
				if acceptClock {
					accept = state.AcceptClock
				}
				did, err := accept(cmd.Context(), cfg.data())
				for _, line := range did {
					fmt.Fprintln(p.Stdout, line)
				}
				return err
			}
			return reportFindings(p, examine(cmd.Context(), cfg), asJSON)
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the findings as JSON")
	cmd.Flags().BoolVar(&acceptLoss, "accept-loss", false, "start anew in place of the files that were lost")
	cmd.Flags().BoolVar(&acceptClock, "accept-clock", false, "go on from this machine's clock, which is behind the store's time")
	cmd.Flags().BoolVar(&ready, "ready", false, "only ask the running server whether it is ready, for the health check of a container")
	cmd.MarkFlagsMutuallyExclusive("ready", "accept-loss", "accept-clock")
	return cmd
}

func reportFindings(p Process, all []finding, asJSON bool) error {
	var unwell error
	for _, f := range all {
		if !f.OK {
			unwell = errUnwell
		}
	}
	if asJSON {
		return errors.Join(p.printJSON(all), unwell)
	}
	for _, f := range all {
		verdict := "ok   "
		switch {
		case !f.OK:
			verdict = "WRONG"
		case f.Warning:
			verdict = "warn "
		}
		fmt.Fprintf(p.Stdout, "%s  %-12s %s\n", verdict, f.What, strings.ReplaceAll(f.Message, "\n", "\n"+strings.Repeat(" ", 20)))
	}
	return unwell
}

// examineKeys says which key signs and which comes next. If there is no next key that is
// wrong only while a server runs, which should have made it.
func examineKeys(ctx context.Context, cfg *config) (fine string, err error) {
	now := time.Now()
	var t keys.Timeline
	running := false
	err = withStore(ctx, cfg, func(st *store.Store) error {
		if t, err = keys.List(ctx, st, cfg.KeyRotation, cfg.Lives.Access, now); err != nil {
			return err
		}
		running, err = state.Runs(ctx, cfg.data(), st)
		return err
	})
	switch {
	case errors.Is(err, store.ErrNoStore) && !errors.Is(err, store.ErrHalf):
		return "none yet; the first start of a server makes them", nil
	case err != nil:
		return "", err
	}
	var signing, next keys.Info
	for _, k := range t.Keys {
		switch {
		case k.State == keys.Signing:
			signing = k
		case k.State == keys.Next && next.ID == "":
			next = k
		}
	}
	switch {
	case signing.ID == "" && !running:
		return "none yet; a server makes them when it starts", nil
	case signing.ID == "":
		return "", errors.New("no key signs, although a server runs: see its log")
	case next.ID != "":
		return signing.ID + " signs, the next one " + moment(next.SignsFrom, now), nil
	case running:
		return "", errors.New(signing.ID + " signs, and the next key is late, although a server runs: see its log")
	}
	return signing.ID + " signs, the next one is made when a server starts", nil
}
