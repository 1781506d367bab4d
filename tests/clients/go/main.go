// The conversation (tests/src/clients/conversation.rs) by Go's net/http, with its default client.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
)

func ask(method, path string, body io.Reader) *http.Response {
	request, err := http.NewRequest(method, os.Args[1]+path, body)
	check(err)
	request.Header.Set("Authorization", "Bearer "+os.Getenv("LAB_API_KEY"))
	response, err := http.DefaultClient.Do(request)
	check(err)
	return response
}

func whole(response *http.Response) string {
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	check(err)
	return string(body)
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	fmt.Println("version", runtime.Version())
	response := ask("GET", "/v1/lab/echo", nil)
	fmt.Println("echo", response.StatusCode)
	fmt.Println(whole(response))

	response = ask("POST", "/v1/lab/upload", bytes.NewReader(make([]byte, 3000000)))
	fmt.Print("upload ", response.StatusCode, " ", whole(response))

	response = ask("GET", "/v1/lab/events/3", nil)
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "data: ") {
			fmt.Println(strings.TrimPrefix(lines.Text(), "data: "))
		}
	}
	check(lines.Err())
	response.Body.Close()

	response = ask("DELETE", "/v1/models/m", nil)
	fmt.Print("refused ", response.StatusCode, " ", whole(response))
}
