// What tools report, in Japanese: lines with {places} for names and numbers, as in lora_train_1_words_said.js.
(function () {
    "use strict";

    window.loraTrain.words.ja.said.push(
        // merge
        ["{low} layers ({parts}) at UNet {unet}, text encoders {te}", "{low} 層（{parts}）、強度はUNet {unet}、テキストエンコーダー {te}"],
        ["{low} layers ({parts}) at {at}", "{low} 層（{parts}）、強度 {at}"],
        ["  {low} of its layers match nothing and are left out, first {name}", "  {low} 層は対応するものがないので除きました（最初は {name}）"],
        ["  {low} are for a text encoder's last layer, which no caption comes through", "  {low} 個はテキストエンコーダーの最後の層用で、キャプションが通らないので使いません"],
        ["{low} biases have no place in the checkpoint", "{low} 個のバイアスはチェックポイントに入れる場所がありません"],
        ["{low} layers of {path} changed; wrote {to}", "{path} の {low} 層を変え、{to} に書きました"],
        ["factors were added, as sd-scripts does; see concat for the sum of the files", "sd-scriptsと同じく因子どうしを足しました。ファイルの和そのものは concat です"],
        ["missing: {share} of what is added; most in {layer}, {most}", "失われた割合: 加えるものの {share}。最も多いのは {layer} の {most}"],
        ["biases of {low} layers are left out: a LoRA has none", "{low} 層のバイアスは除きました。LoRAにはありません"],
        ["the embedding {name} is in it", "埋め込み {name} を含みます"],

        // extract, resize
        ["the text encoders are equal, and left out", "テキストエンコーダーは同じなので除きました"],
        ["{low} layers; {share} of their difference missing (Frobenius norm)", "{low} 層。差のうち失われたのは {share}（フロベニウスノルム）"],
        ["{low} layers, rank {a} to {b}, {share} missing", "{low} 層、ランク {a}～{b}、{share} が失われました"],
        ["{low} layers, rank {a}, {share} missing", "{low} 層、ランク {a}、{share} が失われました"],
        ["{low} layers, {share} missing", "{low} 層、{share} が失われました"],
        ["{key} rank {n}, {share} of its norm kept", "{key} ランク {n}、ノルムの {share} を保持"],
        ["{low} layers, ranks {a} to {b}, {mean} on average", "{low} 層、ランク {a}～{b}、平均 {mean}"],
        ["{share} of the norm kept, error {error}", "ノルムの {share} を保持、誤差 {error}"],
        ["{low} tensors are for no layer, and left out ({name}, …)", "{low} 個のテンソルはどの層のものでもないので除きました（{name} など）"],

        // convert
        ["{low} layers as {spelling} spells them, {high} left out", "{low} 層を {spelling} の表記で書き、{high} 層を除きました"],
        ["{low} layers as {spelling} spells them", "{low} 層を {spelling} の表記で書きました"],
        ["error of what was cut to rank {rank}: {share}", "ランク {rank} に切り詰めた分の誤差: {share}"],
        ["exact", "誤差なし"],
        ["{low} layers are of no low rank, or change a bias, and stay whole", "{low} 層は低ランクでないか、バイアスを変えるので、そのまま残しました"],
        ["alpha was worked into the factors, with a rounding of at most {share} of a number", "alphaを因子に掛け込みました。丸めは各数値の最大 {share} です"],
        ["{low} layers, rank {a} to {b} and {high} not as a LoRA", "{low} 層、ランク {a}～{b}、うち {high} 層はLoRAでない形"],
        ["{low} layers, rank {a} and {high} not as a LoRA", "{low} 層、ランク {a}、うち {high} 層はLoRAでない形"],
        ["{low} layers, {high} not as a LoRA", "{low} 層、うち {high} 層はLoRAでない形"],
        ["{low} layers, rank {a} to {b}", "{low} 層、ランク {a}～{b}"],
        ["{low} layers, rank {a}", "{low} 層、ランク {a}"],
        ["rank {low}", "ランク {low}"],

        // whole models
        ["Saved {path}: {arch}, predicts {what}", "{path} に保存しました: {arch}、予測は {what}"],
        ["Left out, for it is of no part of the model: {name}, {low} in all", "モデルのどの部分でもないので除きました: {name} など {low} 個"],
        ["It does not say its {which}, which are unusual; put a .yaml that does beside it", "{which} が普通と違いますが、ファイル自身には書かれません。それを書いた .yaml を横に置いてください"],
        ["Saved {path}: {low} of {high} tensors are the base's; {after} bytes in place of {before}", "{path} に保存しました: {high} 個中 {low} 個のテンソルが元のモデルと同じ。{before} バイトが {after} バイトに"],
        ["Saved {path}: the file that was dehydrated, to the bit", "{path} に保存しました: 元のファイルとビット単位で同じです"],

        // metadata, card
        ["{path} says nothing of itself", "{path} にはメタデータがありません"],
        ["picture: none", "画像: なし"],
        ["Saved {path}", "{path} に保存しました"],
    );
})();
