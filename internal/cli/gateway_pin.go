package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"signet/internal/durable"
	"signet/internal/gatewayconfig"
)

func gatewayPinCommand(p Process) *cobra.Command {
	var dry bool
	var ids, tokens []string
	cmd := &cobra.Command{
		Use: "pin FILE", Short: "Pin the tools of the gateway's servers as they are now", Args: cobra.ExactArgs(1), Annotations: takesOverrides,
		Long: "Connect to each server of FILE, or to those of --server, and write the hashes of its tools\n" +
			"into FILE, as `pins` of the server. From then on a tool is served only as long as its\n" +
			"name, title, description, schemas and annotations are what they are now. Review the\n" +
			"tools first: `signet gateway probe --json FILE` shows them. Nothing is written if a\n" +
			"server cannot be asked.",
		RunE: p.withConfig(func(cmd *cobra.Command, cfg *config, args []string) error {
			list, err := p.probe(cmd.Context(), cfg, args, tokens)
			if err != nil {
				return err
			}
			pins, err := pinsOf(list, ids)
			if err != nil {
				return err
			}
			if dry {
				return p.printPins(list, pins)
			}
			if err := writePins(args[0], pins); err != nil {
				if errors.Is(err, gatewayconfig.ErrByHand) {
					err = errors.Join(err, p.printPins(list, pins))
				}
				return err
			}
			for _, s := range list {
				if all, ok := pins[s.ID]; ok {
					if err := p.print("%s: tools pinned: %d", s.ID, len(all)); err != nil {
						return err
					}
				}
			}
			return nil
		}),
	}
	cmd.Flags().BoolVar(&dry, "print", false, "print the pins in place of writing them")
	cmd.Flags().StringArrayVar(&ids, "server", nil, "pin the tools of the server ID only (repeatable)")
	cmd.Flags().StringArrayVar(&tokens, "token", nil, "ID=VARIABLE: the environment variable has a credential for the server ID (repeatable)")
	return cmd
}

// pinsOf returns the pins of the servers with these ids, or of all.
func pinsOf(list []probedServer, ids []string) (gatewayconfig.Pins, error) {
	for _, id := range ids {
		if !slices.ContainsFunc(list, func(s probedServer) bool { return s.ID == id }) {
			return nil, wrongUse{fmt.Errorf("--server: there is no server %q", id)}
		}
	}
	var errs []error
	pins := gatewayconfig.Pins{}
	for _, s := range list {
		if len(ids) > 0 && !slices.Contains(ids, s.ID) {
			continue
		}
		if s.Tools == nil {
			why := slices.Concat(s.Problems, s.Notes)
			errs = append(errs, fmt.Errorf("the tools of the server %s cannot be listed: %s", s.ID, clean(fmt.Sprint(why[0]))))
			continue
		}
		pins[s.ID] = map[string]string{}
		for _, t := range s.Tools {
			pins[s.ID][t.Name] = t.Pin
		}
	}
	return pins, errors.Join(errs...)
}

// writePins writes pins into the file at path.
func writePins(path string, pins gatewayconfig.Pins) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text, err = pins.Write(text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return durable.Replace(path, text)
}

// printPins prints pins as they stand in the entries of the servers.
func (p Process) printPins(list []probedServer, pins gatewayconfig.Pins) error {
	for _, s := range list {
		if _, ok := pins[s.ID]; !ok {
			continue
		}
		if err := p.print("# %s\n%s", s.ID, pins.Section(s.ID, "")); err != nil {
			return err
		}
	}
	return nil
}
