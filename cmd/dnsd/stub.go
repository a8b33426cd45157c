package main

import (
	"context"
	"errors"
	"io"
)

func serve(context.Context, *config, func(string) string, io.Writer) error {
	return errors.New("to come")
}

func check(*config, []string, func(string) string, io.Writer) error { return errors.New("to come") }

func export(context.Context, *config, func(string) string, io.Writer, io.Writer) error {
	return errors.New("to come")
}
