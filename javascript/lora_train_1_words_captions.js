// Works on captions, names and balance of the room Dataset in Japanese: what they do, and their settings.
(function () {
    "use strict";

    Object.assign(window.loraTrain.words.ja, {
        // of all works
        "Folder of pictures.": "画像のフォルダ。",
        "Folders within it, too.": "中のフォルダも含めます。",
        "Links that lead out of the folder count as well; else they are left alone.": "フォルダの外へのリンクも対象にします。オフなら触れません。",
        "Ending of caption files.": "キャプションファイルの拡張子。",
        "Which pictures, in words of the filter line: cat -dog, \"long hair\" OR /regex/, is:uncaptioned, width<512, problem:blurred. Empty: all.": "対象の画像を絞り込みの書き方で指定: cat -dog、\"long hair\" OR /正規表現/、is:uncaptioned、width<512、problem:blurred。空欄: すべて。",
        "Only these pictures, by their names within the folder.": "この画像だけ（フォルダ内の名前で指定）。",
        "Say what would be done, and do nothing.": "何が変わるかを報告するだけで、何もしません。",
        "Import": "取り込み",
        "Export": "書き出し",
        "Text": "文",
        "Trigger": "トリガー",
        "Names": "名前",
        "Balance": "配分",
        "What stands between tags.": "タグの区切り。",
        "What stands behind a picture's name in that of its mask.": "マスクのファイル名で画像名の後に付く文字。",

        // captions
        "Edit captions. What is asked for is done in this order: set or clear, regex, replace, underscores, remove (and traits that are absorbed), add, dedupe, sort, trigger word (and traits that are kept), prepend, append, separator.": "キャプションを編集します。指定したものを次の順に行います: set か clear、regex、replace、underscores、remove（吸収させる traits も）、add、dedupe、sort、トリガーワード（残す traits も）、prepend、append、separator。",
        "The whole caption, in place of what there is.": "今のキャプションと置き換える全文。",
        "Empty the captions.": "キャプションを空にします。",
        "Write caption files of other encodings anew in UTF-8; what is changed for another reason is so in any case.": "ほかの文字コードのキャプションをUTF-8で書き直します。ほかの理由で変わるものは常にUTF-8になります。",
        "Regular expression; what it finds in a caption becomes regex_with. Repeats of repeats, such as (a+)+, may take forever.": "正規表現。キャプション内で一致した部分が regex_with になります。(a+)+ のような繰り返しの繰り返しは、いつまでも終わらないことがあります。",
        "What takes the place of what regex finds; \\1 is its first group.": "regex が一致した部分と置き換わる文字。\\1 は最初のグループ。",
        "Tags that become others: old => new, with commas between, or one in quotes that has commas: \"cat => cat ears, tail\". Nothing behind => takes the tag out. In sentences it is done to words.": "置き換えるタグ: old => new をコンマで区切って並べます。コンマを含むものは引用符で囲みます: \"cat => cat ears, tail\"。=> の後が空ならそのタグを消します。文の場合は単語に対して行います。",
        "In tags: blanks for underscores (long_hair becomes long hair), or underscores for blanks. Tags of up to 3 letters, such as ^_^, stay.": "タグのアンダースコアを空白に（long_hair → long hair）、または空白をアンダースコアに。^_^ など3文字以下のタグはそのまま。",
        "Tags to take out, with commas between; * stands for anything: *hair, simple background.": "消すタグをコンマ区切りで。* は任意の文字: *hair, simple background",
        "Tags of what always belongs to the character or thing, such as hair and eyes; strategy says what becomes of them.": "髪や目など、キャラクターや物に常に属するもののタグ。どう扱うかは strategy で決めます。",
        "absorb: traits are taken out of the captions, so that the trigger word comes to mean them, and calls them alone; they can hardly be changed in a prompt then. keep: traits stay, right behind the trigger word, and are learned under their own names, so that a prompt must say them, and may say others.": "absorb（吸収）: traits をキャプションから消し、トリガーワードだけで呼び出せるように覚えさせます。プロンプトで変えにくくなります。keep（残す）: traits をトリガーワードの直後に残し、それぞれの名前で覚えさせます。プロンプトに書く必要がありますが、別のものに変えられます。",
        "Tags to add where a caption has them not, with commas between.": "ないものだけ追加するタグ。コンマ区切り。",
        "Added tags go in front of the others, and not behind.": "追加するタグを後ろではなく先頭に置きます。",
        "Tags that stand twice stand once.": "重複したタグを1つにします。",
        "Order of the tags: by the alphabet, or those first that most captions of the folder have. Sentences are not sorted.": "タグの順: アルファベット順、またはフォルダ内で多いもの順。文は並べ替えません。",
        "So many tags at the front are not sorted.": "先頭からこの数のタグは並べ替えません。",
        "Put in front of every caption; moved there where it is a tag already, left where a sentence has it.": "すべてのキャプションの先頭に置きます。すでにタグとしてあれば先頭に移し、文の中にあればそのままにします。",
        "Text in front of each caption, with a blank between, such as: a photo of.": "各キャプションの前に空白をはさんで置く文。例: a photo of",
        "Text behind each caption.": "各キャプションの後に置く文。",
        "What is to stand between them from now on.": "これから使う区切り。",

        // tags and spelling
        "Count the tags of captions: which are frequent, which stand together, which one picture alone has, which a trigger word would take up, and how many tokens captions have.": "キャプションのタグを数えます: 多いもの、一緒に現れるもの、1枚だけのもの、トリガーワードに吸収されそうなもの、トークン数。",
        "Tag whose company is listed: how often others stand with it.": "このタグと一緒に現れるタグを、その回数とともに並べます。",
        "Word that calls the LoRA.": "LoRAを呼び出す単語。",
        "Share of captions from which on a tag is proposed for the trigger word to take up.": "この割合以上のキャプションにあるタグを、トリガーワードに吸収させる候補にします。",
        "List of known tags, .csv or .txt; those that are not in it are named.": "既知のタグの一覧（.csv か .txt）。ないタグを示します。",
        "Tokens of a caption that training reads.": "学習で読まれるキャプションのトークン数。",
        "Rows of each list that are printed.": "各一覧で表示する行数。",
        "Mend tags that a list does not have: another name of a tag becomes that tag; one that is a slip or two away from a known one becomes that. Sentences are left alone. Look with dry_run first; what the list has nothing near to is named by the work tags.": "一覧にないタグを直します: 別名は正式なタグに、1〜2文字の誤りは近い既知のタグになります。文には触れません。まず dry_run で確かめてください。近いものがないタグは tags で示されます。",
        "List of known tags: .csv of the WebUI's tag completion, a tagger's selected_tags.csv, or .txt with a tag a line.": "既知のタグの一覧: WebUIのタグ補完の .csv、タガーの selected_tags.csv、または1行1タグの .txt。",
        "Tags that stay as they are, such as the trigger word, with commas between; * stands for anything.": "トリガーワードなど、そのままにするタグをコンマ区切りで。* は任意の文字。",
        "Only tags that at most this share of captions have are taken for slips.": "この割合以下のキャプションにしかないタグだけを誤りとみなします。",

        // rename
        "Number pictures in order. Captions of every ending, masks and caches keep their pictures; pictures that share a name share the new one. Names may be swapped.": "画像に順番に番号を付けます。どの拡張子のキャプションも、マスクもキャッシュも画像と一緒に変わります。同じ名前の画像は新しい名前も同じになります。名前の入れ替えもできます。",
        "What names begin with.": "名前の先頭。",
        "The rest of the name: {n} is the number, {n:04d} the number with four digits, {name} the name so far.": "名前の残り: {n} は番号、{n:04d} は4桁の番号、{name} は今の名前。",
        "The first number.": "最初の番号。",
        "What numbers follow: names, in which 2 comes before 10, or when files were last changed.": "番号の順: 名前順（2は10より前）、または更新日時順。",
        "Latents that sd-scripts keeps beside pictures, .npz: they get the new names, or are taken away.": "sd-scriptsが画像の横に置く潜在表現（.npz）: 名前を変えるか、取り除きます。",
        "Folder of masks within the folder, named like their pictures.": "フォルダ内にあるマスクのフォルダ（画像と同じ名前）。",

        // repeats
        "Suggest repeats for the folders of a training, so that each counts as wanted however many pictures it has, and say how many steps that gives. Nothing is renamed.": "画像数によらず各フォルダが望みの割合になる繰り返し数と、そのステップ数を示します。名前は変えません。",
        "Folder with folders of pictures, named like 10_name or otherwise.": "画像のフォルダが並ぶフォルダ（10_名前 などでもそれ以外でも）。",
        "How much folders shall count beside each other: cat = 2, dog = 1. Those that are not named count 1.": "フォルダ同士の比: cat = 2, dog = 1。書かないものは1。",
        "How far a folder's share may be from what is wanted; whole repeats seldom meet it exactly. 0.05 is a twentieth of it.": "望みの割合からのずれの許容。整数の繰り返しではぴったりになりません。0.05 は20分の1。",
        "Epochs that steps are counted for.": "ステップ数を数えるエポック数。",
        "Pictures in one batch.": "1バッチの画像数。",
        "Batches to a step.": "1ステップのバッチ数。",
        "Size to train at: one number or width,height.": "学習するサイズ: 1つの数、または 幅,高さ。",
        "Each picture gets a size near its own shape; of such a size the last batch may be smaller.": "画像ごとに形の近いサイズにします。各サイズの最後のバッチは小さくなることがあります。",

        // import and export
        "Take captions out of one file into caption files beside the pictures, whose names are found with or without ending and whatever folder stands before them.": "1つのファイルにまとまったキャプションを、画像の横のキャプションファイルに移します。画像名は拡張子や前のフォルダ名が違っても見つけます。",
        "File with captions: sd-scripts' JSON of captions; .jsonl with file_name and text; a dataset_config .toml, whose metadata_file, captions of other endings and class_tokens count; a list of concepts of OneTrainer or Dreambooth.": "キャプションのファイル: sd-scriptsのJSON、file_name と text の .jsonl、dataset_config の .toml（metadata_file、別の拡張子のキャプション、class_tokens）、OneTrainerかDreamboothのコンセプト一覧。",
        "Pictures that have a caption: keep it, replace it, or append the tags that it lacks.": "すでにキャプションがある画像: そのまま、置き換え、または足りないタグを追加。",
        "Write one file for other trainers: captions (metadata, jsonl), or the folder and the numbered folders in it with their repeats (toml, onetrainer, dreambooth).": "ほかの学習ツール用に1つのファイルを書き出します: キャプション（metadata、jsonl）、またはフォルダと番号付きフォルダの繰り返し数（toml、onetrainer、dreambooth）。",
        "File that is written.": "書き出すファイル。",
        "metadata: sd-scripts' JSON of captions, for metadata_file or in_json. jsonl: file_name and text, a line for each picture, as Hugging Face's data sets have it. toml: sd-scripts' dataset_config. onetrainer, dreambooth: lists of concepts.": "metadata: sd-scriptsのキャプションJSON（metadata_file や in_json 用）。jsonl: 1行1画像の file_name と text（Hugging Face形式）。toml: sd-scriptsの dataset_config。onetrainer、dreambooth: コンセプト一覧。",
        "In metadata, pictures by their whole paths and not by their names.": "metadata で、画像を名前ではなくフルパスで書きます。",
        "In metadata, what captions are written as.": "metadata で、キャプションを書く項目。",
        "In toml, the size to train at.": "toml での学習サイズ。",
        "In toml, pictures in one batch.": "toml での1バッチの画像数。",
        "In toml, give each picture a size near its own shape.": "toml で、画像ごとに形の近いサイズを使います。",
        "Replace the file to write to, where there is one.": "ファイルがあれば上書きします。",
    });
})();
