<?php
// Writes the key as PHP's encoders do: a line for each, its name and the bytes in hexadecimal.
$key = getenv("KEY");
$more = "Authorization: Bearer $key\r\n";
function say($name, $value) { echo $name, " ", bin2hex($value), "\n"; }

say("json", json_encode(["key" => $key]));
$hex = JSON_HEX_TAG | JSON_HEX_AMP | JSON_HEX_APOS | JSON_HEX_QUOT;
say("json-hex", json_encode(["key" => $key], $hex));
say("json-plain", json_encode(["key" => $key], JSON_UNESCAPED_SLASHES));
say("json-twice", json_encode(json_encode(["key" => $key])));
say("rawurlencode", rawurlencode($key));
say("urlencode", urlencode($key));
say("urlencode-twice", urlencode(urlencode($key)));
say("query", http_build_query(["key" => $key]));
say("html", htmlspecialchars($key));
say("html-all", htmlentities($key, ENT_QUOTES | ENT_HTML5));
say("addslashes", addslashes($key));
say("base64", base64_encode($more));
say("base64-chunks", chunk_split(base64_encode(str_repeat($more, 3))));
say("base64-json", json_encode(base64_encode($more)));
say("base64-chunks-json", json_encode(chunk_split(base64_encode(str_repeat($more, 3)))));
say("base64-url", urlencode(base64_encode($more)));
say("base64-of-json", base64_encode(json_encode(["key" => $key])));
say("base64-of-url", base64_encode(urlencode($key)));
say("hex", bin2hex($key));
say("hex-lines", chunk_split(bin2hex($key), 60, "\n"));
say("hex-by", chunk_split(bin2hex($key), 2, " "));
say("var_export", var_export($key, true));
